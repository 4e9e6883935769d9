"""Choose, gather and restore visible tokens (MAE's random masking, arXiv:2111.06377)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt32


def visible_tokens(tokens: int, mask_ratio: float) -> int:
    """MAE's rounding (models_mae.py, random_masking): 49 of 196 at a ratio of 0.75."""
    return max(1, int(tokens * (1 - mask_ratio)))


def choose(
    rng: Key[Array, ""] | UInt32[Array, "2"], images: int, tokens: int, visible: int
) -> tuple[Int[Array, "B V"], Int[Array, "B U"]]:
    """Indices of the visible and of the masked tokens.

    Each image gets its own uniformly random subset of exactly `visible` tokens.
    """
    noise = jax.random.uniform(rng, (images, tokens))
    shuffled = jnp.argsort(noise, axis=1)
    return shuffled[:, :visible], shuffled[:, visible:]


def order(visible_BV: Int[Array, "B V"], masked_BU: Int[Array, "B U"]) -> Int[Array, "B N"]:
    """Where each token of the image stands in [visible, masked], for `restore`."""
    return jnp.argsort(jnp.concatenate([visible_BV, masked_BU], axis=1), axis=1)


def gather(
    tokens_BND: Float[Array, "B N D"], indices_BV: Int[Array, "B V"]
) -> Float[Array, "B V D"]:
    """The tokens with these indices."""
    return jnp.take_along_axis(tokens_BND, indices_BV[..., None], axis=1)


def restore(
    merged_BND: Float[Array, "B N D"], order_BN: Int[Array, "B N"]
) -> Float[Array, "B N D"]:
    """[visible, masked] tokens back in image order."""
    return gather(merged_BND, order_BN)
