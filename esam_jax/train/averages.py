"""Running averages of what a run trains, which make the better model (`optim.ema`).

After every update that counts, e becomes d e + (1 - d) p, for a decay d and each parameter p, as in
timm's ModelEmaV2; before the first one e is p. What a task freezes has no average. Statistics of
batch norms have one, as in timm, where everything in the state dict does.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from esam_jax.models.parts import batch_norm
from esam_jax.tasks import trained
from esam_jax.tasks.task import Task
from esam_jax.typing import Params


def of(params: Params, task: Task) -> Params:
    """The leaves that have an average: what the task trains, and statistics."""
    return trained.select(params, lambda path: task.trains(path) or batch_norm.is_statistic(path))


def copies(params: Params) -> Params:
    """The same numbers in buffers of their own, laid out alike: an update consumes both."""
    places = jax.tree.map(lambda leaf: leaf.sharding, params)
    return jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), out_shardings=places)(params)


def followed(averages: Params, params: Params, decay: float, good: Bool[Array, ""]) -> Params:
    """The averages after one more update, to `params`; unless it is `good`, as they are."""

    def follow(average: Array, param: Array) -> Array:
        # In float32 d and 1 - d do not add up to 1, by which the average of a constant would drift
        # away from it; a step of the difference stays.
        return jnp.where(good, average + (1.0 - decay) * (param - average), average)

    return jax.tree.map(follow, averages, params)
