"""The compiled programs of prediction: what `Sam` calls, `esam bench` times and `esam plan` reads.

Compiled for the module and the shapes alone: another set of weights, such as those of a later step
of training, reuses the program.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from esam_jax.models.parts import stack
from esam_jax.models.sam import network
from esam_jax.typing import Params


@functools.partial(jax.jit, static_argnames="model")
def encode(
    model: network.Sam, params: Params, pixels: Float[Array, "B H W 3"]
) -> Float[Array, "B h w C"]:
    """Features of model inputs."""
    with stack.forward_only():
        features: Any = model.apply({"params": params}, pixels, method="encode")
    return features


@functools.partial(jax.jit, static_argnames="model")
def decode(
    model: network.Sam, params: Params, *arrays: Array | None
) -> tuple[Float[Array, "B Q M l l"], Float[Array, "B Q M"]]:
    """Logits and scores of every mask token, the single mask first.

    arrays: features, points, labels and mask logits, as `network.Sam.decode` takes them.
    """
    with stack.forward_only():
        answer: Any = model.apply({"params": params}, *arrays, method="decode")
    return answer


@jax.jit
def take(items: Array, places: Int[Array, "..."]) -> Array:
    """Some of what lies along the first axis."""
    return items.at[places].get(mode="promise_in_bounds")


@jax.jit
def rows(
    answers: tuple[Float[Array, "_ _ _ l l"], ...], places: Int[Array, "*X"]
) -> Float[Array, "*X l l"]:
    """Some logits of several answers, counted through these one after another, in float32."""
    flat = [answer.reshape(-1, *answer.shape[3:]) for answer in answers]
    together = flat[0] if len(flat) == 1 else jnp.concatenate(flat)
    return take(together, places).astype(jnp.float32)
