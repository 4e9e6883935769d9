"""One update, as the maths: gradient of the weighted mean loss, AdamW, apply."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Num, Shaped

from esam_jax import sharding
from esam_jax.config import GuardConfig
from esam_jax.errors import ConfigError
from esam_jax.machine import compiler_options
from esam_jax.models.parts import batch_norm
from esam_jax.models.parts.batch_norm import Moments
from esam_jax.tasks import trained as parts
from esam_jax.tasks.task import Task
from esam_jax.train import averages, guard, scalars
from esam_jax.train.optim import Optimiser, Schedule
from esam_jax.train.scalars import Scalars
from esam_jax.train.state import TrainState
from esam_jax.typing import Batch, Params

Metrics = dict[str, Num[Array, ""]]


@dataclasses.dataclass(frozen=True)
class Update:
    """The compiled update (state, frozen, batch) -> (state, metrics); it consumes the old state."""

    jitted: Any  # of (state, frozen, batch, schedule)
    schedule: Schedule
    mesh: Mesh

    def __call__(
        self, state: TrainState, frozen: Params, batch: Batch
    ) -> tuple[TrainState, Scalars]:
        return self.jitted(state, frozen, batch, self._placed)

    def lower(self, state: Any, frozen: Any, batch: Any) -> jax.stages.Lowered:
        """Traced and lowered; every argument may be abstract."""
        return self.jitted.lower(state, frozen, batch, self.schedule)

    @functools.cached_property
    def _placed(self) -> Schedule:
        # The devices of a mesh that is only planned hold nothing: not before the first call.
        everywhere = sharding.replicated(self.mesh)
        with jax.transfer_guard("allow"):
            return Schedule(*(sharding.place(number, everywhere) for number in self.schedule))


def jit_step(
    task: Task,
    optimiser: Optimiser,
    mesh: Mesh,
    state: TrainState,
    frozen: Params,
    *,
    seed: int,
    accumulate: int,
    guarded: GuardConfig,
    deterministic: bool = False,
) -> Update:
    """The compiled update.

    `state` and `frozen` may be abstract: only their shardings are read. `seed` is that of every
    random choice, `accumulate` the number of micro-batches. What the task does not train passes
    through as it is. An update whose loss or gradient is not finite is skipped: parameters,
    moments, averages and counts keep their bits. Several models are skipped together, because they
    share a batch and the optimiser's count. With `deterministic` it gives the same bits on every
    run on the same kind of GPU.
    """
    root_key = jax.random.key_data(jax.random.key(seed))

    def update(
        state: TrainState, frozen: Params, batch: Batch, schedule: Schedule
    ) -> tuple[TrainState, Scalars]:
        rng = jax.random.fold_in(jax.random.wrap_key_data(root_key), state.step)
        grads, metrics, moments = mean_gradient(
            task, state.params, frozen, batch, rng, accumulate, sharding.batch(mesh)
        )
        metrics |= _gradient_norms(grads)
        # Of what was summed over all devices, so that every host finds the same.
        good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        good &= batch_norm.all_finite(moments)
        trained = parts.select(state.params, task.trains)
        updates, opt_state = optimiser.update(grads, state.opt_state, trained, schedule)
        changed = optax.apply_updates(trained, updates), opt_state
        trained, opt_state = _select(good, changed, (trained, state.opt_state))
        metrics |= _sizes(trained, updates, good)
        statistics = batch_norm.folded(state.params, moments, good)
        params = parts.merged(parts.merged(state.params, trained), statistics)
        metrics["learning_rate"] = optimiser.rate(state.step - state.guard.skipped, schedule)
        memory, findings = guard.watch(guarded, state, metrics["loss"], good)
        means = averages.followed(state.averages, averages.of(params, task), optimiser.ema, good)
        after = TrainState(state.step + 1, params, opt_state, state.batches + 1, memory, means)
        return after, scalars.pack(metrics | findings)

    everywhere = sharding.replicated(mesh)
    jitted = jax.jit(
        update,
        in_shardings=(_places(state), _places(frozen), sharding.batch(mesh), everywhere),
        out_shardings=(_places(state), everywhere),
        donate_argnums=0,
        compiler_options=compiler_options.of_update(
            mesh.devices.flat[0].platform, deterministic=deterministic
        ),
    )
    return Update(jitted, optimiser.schedule, mesh)


def mean_gradient(
    task: Task,
    params: Params,
    frozen: Params,
    batch: Batch,
    rng: Array,
    accumulate: int,
    place: NamedSharding,
) -> tuple[Params, Metrics, Moments]:
    """Gradient of what is trained, and metrics, of sum(loss * weight) / sum(weight) over all
    micro-batches together; the statistics of the batch, if the loss has any.

    Sums are accumulated and divided once, so uneven weights count alike however the batch is cut.
    ConfigError for statistics of a batch that is cut.
    """
    images = len(jax.tree.leaves(batch)[0])
    prepared = task.prepare({**batch, **task.draw(rng, images)})
    batch = jax.lax.with_sharding_constraint(prepared, place)

    def weighted_sums(trained: Params, part: Batch) -> tuple[Array, tuple[Metrics, Moments]]:
        with sharding.activations(place.mesh):
            each = task.loss(parts.merged(params, trained), frozen, part)
        values = {"loss": each.loss, **each.metrics}
        sums = {name: jnp.sum(value * each.weight) for name, value in values.items()}
        sums |= {"weight": jnp.sum(each.weight)}
        return sums["loss"], (sums, each.moments)

    def gradient_sums(part: Batch) -> tuple[Params, Metrics, Moments]:
        trained = parts.select(params, task.trains)
        grads, (sums, moments) = jax.grad(weighted_sums, has_aux=True)(trained, part)
        if moments and accumulate > 1:
            raise ConfigError(batch_norm.cut(accumulate))
        return grads, sums, moments

    if accumulate == 1:
        grads, sums, moments = gradient_sums(batch)
    else:
        pieces = jax.tree.map(lambda x: micro_batches(x, accumulate, place), batch)

        def add(total: Any, part: Batch) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, gradient_sums(part)), None

        shapes = jax.eval_shape(gradient_sums, jax.tree.map(lambda x: x[0], pieces))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        (grads, sums, moments), _ = jax.lax.scan(add, zeros, pieces)
    # A batch of padding alone has no gradient, rather than one of 0/0.
    share = 1.0 / jnp.maximum(sums.pop("weight"), jnp.finfo(jnp.float32).tiny)
    return *jax.tree.map(lambda x: x * share, (grads, sums)), moments


def micro_batches(
    x: Shaped[Array, "B *X"], accumulate: int, place: NamedSharding
) -> Shaped[Array, "_ _ *X"]:
    """The batch cut into `accumulate` parts, each spread over the mesh like the batch.

    Example i goes to part i % accumulate: every device cuts up what it holds, and nothing moves.
    """
    parts = x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]).swapaxes(0, 1)
    spec = jax.sharding.PartitionSpec(None, *place.spec)
    return jax.lax.with_sharding_constraint(parts, NamedSharding(place.mesh, spec))


def _places(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def _select(good: Array, changed: Any, before: Any) -> Any:
    """A select fuses into the update and works in place, where a branch would copy the state."""
    return jax.tree.map(functools.partial(jnp.where, good), changed, before)


def _gradient_norms(grads: Params) -> Metrics:
    """Global norm over all models, and of each apart where there are several."""
    norms = {"grad_norm": optax.tree.norm(grads)}
    if len(grads) > 1:
        norms |= {f"grad_norm/{name}": optax.tree.norm(model) for name, model in grads.items()}
    return norms


def _sizes(params: Any, updates: Any, good: Array) -> Metrics:
    """Global norm of what is trained after the update, and of the update as a share of it."""
    norm = optax.tree.norm(params)
    return {
        "param_norm": norm,
        "update_ratio": jnp.where(good, optax.tree.norm(updates) / norm, 0.0),
    }
