"""The state of training, born sharded: no device ever holds more than its own pieces."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from esam_jax import sharding
from esam_jax.errors import CheckpointError
from esam_jax.machine import compiler_options
from esam_jax.tasks import trained
from esam_jax.tasks.task import Task
from esam_jax.train import averages
from esam_jax.train.optim import Optimiser
from esam_jax.typing import Batch, Params

# Step s draws from fold_in(key, s); the parameters from a number that no step has.
_INIT_STREAM = 2**32 - 1


@flax.struct.dataclass
class GuardState:
    """What train/guard.py decides by: scalars in the state, so that a resumed run decides alike."""

    skipped: Any  # int32: updates that were skipped so far, which the learning rate waits for
    skipped_in_a_row: Any  # int32
    losses: Any  # int32: finite ones so far
    loss_mean: Any  # float32: their running mean
    rollbacks: Any  # int32


@flax.struct.dataclass
class TrainState:
    """What an update changes and a checkpoint holds; `step` is the number of updates done.

    `params` holds all parameters, `opt_state` moments of those that are trained (`Task.trains`).
    `batches` is the position in the data: how many global batches were used or left out.
    `averages` holds those of `optim.ema`, of a part of the parameters (`train/averages.py`). The
    fields also hold the abstract arrays and shardings of the same tree.
    """

    step: Any  # int32 scalar
    params: Any
    opt_state: Any
    batches: Any  # int32 scalar
    guard: Any  # GuardState
    averages: Any = None  # None where none are kept

    @property
    def result(self) -> Params:
        """The parameters that are measured and written: averages where there are some."""
        return self.params if self.averages is None else trained.merged(self.params, self.averages)


def _fresh(task: Task, optimiser: Optimiser, rng: Array) -> TrainState:
    params = task.init(rng)
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        step=zero,
        params=params,
        opt_state=optimiser.init(trained.select(params, task.trains)),
        batches=zero,
        guard=GuardState(zero, zero, zero, jnp.zeros((), jnp.float32), zero),
        averages=None if optimiser.ema is None else averages.of(params, task),
    )


def init_key(seed: int) -> Array:
    """What the first parameters of a run are drawn from."""
    return jax.random.fold_in(jax.random.key(seed), _INIT_STREAM)


def abstract(task: Task, optimiser: Optimiser, mesh: Mesh) -> TrainState:
    """Shapes, types and shardings of the state, without computing anything."""
    shapes = jax.eval_shape(functools.partial(_fresh, task, optimiser), init_key(0))
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        sharding.shardings(shapes, mesh),
    )


def abstract_batch(task: Task, size: int, mesh: Mesh) -> Batch:
    """Shapes, types and shardings of a batch of `size` examples, without opening any data."""
    return {
        name: jax.ShapeDtypeStruct((size, *shape), dtype, sharding=sharding.batch(mesh))
        for name, (shape, dtype) in task.example.items()
    }


def create(
    task: Task, optimiser: Optimiser, key: Array, mesh: Mesh, start: Params | None = None
) -> TrainState:
    """The state before the first update; `start` replaces what was drawn (`tasks.task.Start`).

    CheckpointError lists the leaves of `start` that fit nowhere.
    """
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract(task, optimiser, mesh))

    def draw(key: Array) -> TrainState:
        with sharding.activations(mesh):
            return _fresh(task, optimiser, key)

    fresh = jax.jit(
        draw,
        out_shardings=places,
        compiler_options=compiler_options.once(mesh.devices.flat[0].platform),
    )
    # The key is an argument, or the compiler would compute every random weight as a constant.
    state = fresh(key)
    if start:
        # What averages begin at is replaced with it.
        params = _replace(state.params, start)
        state = state.replace(params=params, averages=None)
    return averaging(state, places, task)


def averaging(state: TrainState, like: TrainState, task: Task) -> TrainState:
    """`state` with averages where `like` has some, and else without.

    Those that it has are kept; new ones begin at its parameters.
    """
    if like.averages is None:
        return state.replace(averages=None)
    if state.averages is not None:
        return state
    return state.replace(averages=averages.copies(averages.of(state.params, task)))


def _replace(params: Params, start: Params) -> Params:
    """`params` with the leaves of `start` in their place; CheckpointError lists what has none."""
    faults: list[str] = []

    def merge(old: Any, new: Any, path: str) -> Any:
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            faults.extend(f"{path}{name} is unknown" for name in new if name not in old)
            return {
                name: merge(leaf, new[name], f"{path}{name}/") if name in new else leaf
                for name, leaf in old.items()
            }
        if isinstance(old, Mapping) or isinstance(new, Mapping) or old.shape != np.shape(new):
            faults.append(f"{path.rstrip('/')} is {_kind(new)} instead of {_kind(old)}")
            return old
        return sharding.place(np.asarray(new, old.dtype), old.sharding)

    merged = merge(params, start, "")
    if faults:
        raise CheckpointError(f"cannot start from these weights: {', '.join(faults)}")
    return merged


def _kind(node: Any) -> str:
    return "a branch" if isinstance(node, Mapping) else str(np.shape(node))
