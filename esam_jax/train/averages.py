"""Running averages of what a run trains, which make the better model (`optim.ema`).

After every update that counts, e becomes d e + (1 - d) p, for a decay d and each parameter p, as in
timm's ModelEmaV2; before the first one e is p. What a task freezes has no average. Statistics of
batch norms have one, as in timm, where everything in the state dict does. In float32 an average
follows to some 6e-8 / (1 - d) of its size, 6e-4 for 0.9999, since smaller steps are rounded away.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from esam_jax.models.parts import batch_norm
from esam_jax.tasks import trained
from esam_jax.tasks.task import Task
from esam_jax.typing import Params

_MUCH = 0.1  # of the weights that a run starts from, in its averages at the end


def of(params: Params, task: Task) -> Params:
    """The leaves that have an average: what the task trains, and statistics."""
    return trained.select(params, lambda path: task.trains(path) or batch_norm.is_statistic(path))


def copies(params: Params) -> Params:
    """The same numbers in buffers of their own, laid out alike: an update consumes both."""
    places = jax.tree.map(lambda leaf: leaf.sharding, params)
    return jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=places)(params)


def followed(
    averages: Params | None, params: Params, decay: float | None, good: Bool[Array, ""]
) -> Params | None:
    """The averages after one more update, to `params`; unless it is `good`, as they are.

    None where none are kept.
    """
    if averages is None or decay is None:
        return None
    pull = 1.0 - decay

    def follow(average: Array, param: Array) -> Array:
        # In float32 d and 1 - d do not add up to 1, by which the average of a constant would drift
        # away from it; a step of the difference stays.
        return jnp.where(good, average + pull * (param - average), average)

    return jax.tree.map(follow, averages, params)


def left_of_the_start(decay: float | None, steps: int) -> str:
    """What a run of so many updates is too short for, in words; "" where it is not."""
    share = 0.0 if decay is None else decay**steps
    if share <= _MUCH:
        return ""
    return (
        f"optim.ema {decay:g} leaves {share:.0%} of the weights that a run of {steps} steps starts "
        "from in its averages: lower it for short runs"
    )
