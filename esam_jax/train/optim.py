"""AdamW with warm-up, decay of kernels only, layer-wise rates and clipping by model."""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from esam_jax import sharding
from esam_jax.config import OptimConfig
from esam_jax.train import layer_rates
from esam_jax.typing import Params

_ENCODER = re.compile(r"(?:^|/)encoder/")


class Schedule(NamedTuple):
    """The numbers of a learning rate: arguments of the compiled update, not constants in it.

    So a run with another peak, warm-up or length runs the program that is compiled already.
    """

    warmup_steps: Any
    rising: Any  # in each update of the warm-up
    share: Any  # of the decay, in each update after it
    final_lr: Any
    above_final: Any  # of the peak
    drops: Any  # updates from which on the rate is a tenth of what it was


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """A gradient transformation of optax's and the rate that it learns with.

    update: (gradients, state, parameters, schedule) -> (updates, state).
    rate: (number of the update, from 0; schedule) -> learning rate.
    ema: decay of the averages of parameters; None where there are none.
    """

    init: Callable[[Any], Any]
    update: Callable[..., tuple[Any, Any]]
    rate: Callable[[Any, Schedule], jax.Array]
    schedule: Schedule
    ema: float | None


def make(config: OptimConfig, steps: int) -> Optimiser:
    """The optimiser of a run of `steps` updates; top-level keys of its trees are model names."""
    rate = functools.partial(learning_rate, shape=config.schedule)

    def chain(numbers: Schedule) -> optax.GradientTransformation:
        by_number = functools.partial(rate, schedule=numbers)
        parts = [adam_with_decay(config), optax.scale_by_learning_rate(by_number)]
        if config.clip_norm is not None:
            parts.insert(0, _stateless(functools.partial(clip_each, max_norm=config.clip_norm)))
        if config.layer_decay is not None:
            parts.append(layer_rates.by_layer(config.layer_decay))
        if config.encoder_rate != 1:
            parts.append(_stateless(functools.partial(scale_encoder, rate=config.encoder_rate)))
        return optax.chain(*parts)

    def update(grads: Any, state: Any, params: Any, numbers: Schedule) -> tuple[Any, Any]:
        return chain(numbers).update(grads, state, params)

    numbers = schedule(config, steps)
    return Optimiser(chain(numbers).init, update, rate, numbers, config.ema)


def adam_with_decay(config: OptimConfig) -> optax.GradientTransformation:
    """AdamW's updates before the rate: Adam's, plus the decay of what has had a gradient.

    A run of one round never reaches the mask-prompt stem or the single-mask head. PyTorch skips
    parameters without a gradient; decay by path alone would wipe out weights that were taken over.
    Adam's second moment is above zero exactly where a gradient has been.
    """
    adam = optax.scale_by_adam(config.beta1, config.beta2, config.eps)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = adam.update(updates, state, params)
        assert params is not None and isinstance(state, optax.ScaleByAdamState)

        def decay(update: Any, second_moment: Any, param: Any, kernel: bool) -> Any:
            return update + config.weight_decay * param * (second_moment > 0) if kernel else update

        return jax.tree.map(decay, updates, state.nu, params, decays(params)), state

    return optax.GradientTransformation(adam.init, update)


def schedule(config: OptimConfig, steps: int) -> Schedule:
    """The numbers of a run of `steps` updates, in float32."""
    warmup = config.warmup_steps
    numbers = (
        warmup,
        config.peak_lr / max(warmup, 1),
        1.0 / (steps - warmup),
        config.final_lr,
        config.peak_lr - config.final_lr,
        config.drop_at_steps,
    )
    return Schedule(*(np.asarray(number, np.float32) for number in numbers))


def learning_rate(count: Any, schedule: Schedule, *, shape: str) -> jax.Array:
    """Rate of update number 0, 1, ...: linear from 0 to the peak, then by `OptimConfig.schedule`.

    As MAE's lr_sched.py, by update instead of by epoch: the peak is reached at `warmup_steps`, the
    final rate would be that of update number `steps`.
    """
    count = jnp.asarray(count, jnp.float32)
    done = jnp.clip((count - schedule.warmup_steps) * schedule.share, 0.0, 1.0)
    if shape == "steps":
        left = OptimConfig.drop_factor ** jnp.sum(count >= schedule.drops)
    else:
        left = 0.5 * (1.0 + jnp.cos(jnp.pi * done)) if shape == "cosine" else 1.0 - done
    falling = schedule.final_lr + schedule.above_final * left
    return jnp.where(count < schedule.warmup_steps, schedule.rising * count, falling)


def decays(params: Params) -> Params:
    """True where weight decay acts: kernels. Biases, norms, tables and tokens do not decay, nor do
    LoRA's pairs: theirs would pull towards the model that the run started from."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: sharding.name(path).endswith("/kernel"), params
    )


def clip_each(updates: Params, max_norm: float) -> Params:
    """Every model's updates scaled down to a global norm of at most `max_norm`.

    Models trained from one teacher pass stay independent: one's spike does not slow the others.
    """

    def clip(model: Params) -> Params:
        # No epsilon is needed: a norm of 0 gives a ratio of infinity, and the minimum is 1.
        scale = jnp.minimum(1.0, max_norm / optax.tree.norm(model))
        return jax.tree.map(lambda x: x * scale, model)

    return {name: clip(model) for name, model in updates.items()}


def scale_encoder(updates: Params, rate: float) -> Params:
    """Updates of image encoders multiplied by `rate`; their decay is a part of them."""

    def one(path: tuple[Any, ...], update: Any) -> Any:
        return update * rate if _ENCODER.search(sharding.name(path)) else update

    return jax.tree_util.tree_map_with_path(one, updates)


def _stateless(function: Callable[[Any], Any]) -> optax.GradientTransformation:
    return optax.stateless(lambda updates, params: function(updates))
