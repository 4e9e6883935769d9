"""What is done about numbers that go wrong: found on the device, answered by every host alike.

`watch` is part of the compiled update. `after` reads what it found, whenever that arrives: a late
answer is the same answer, because it names the update it is about and the position of its data.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array

from esam_jax.config import GuardConfig
from esam_jax.errors import TrainingError
from esam_jax.train.state import GuardState, TrainState


class RollBack(Exception):  # noqa: N818 (it is no error)
    """Update `step` was a spike: go back to before it, and on with the batch at `next_batch`.

    No fault, but a signal from where metrics are read to where a run begins.
    """

    def __init__(self, step: int, values: Mapping[str, float]) -> None:
        super().__init__(f"loss of step {step} is {values['loss']}")
        self.step = step
        self.loss, self.mean = values["loss"], values["loss_mean"]
        self.next_batch = int(values["batches"])
        self.rollbacks = int(values["rollbacks"]) + 1


# ------------------------------------------------------------------------------ on the device


def watch(
    config: GuardConfig, state: TrainState, loss: Array, good: Array
) -> tuple[GuardState, dict[str, Array]]:
    """The guard's memory after an update, and its findings for the metrics.

    The running mean is that of all losses up to the horizon and moves by 1 / horizon from then on.
    A spike is above `spike` times the mean before it, and no part of it.
    """
    before, horizon = state.guard, config.spike_horizon_steps
    full = before.losses >= horizon
    factor = math.inf if config.spike is None else config.spike
    spike = good & full & (loss > factor * before.loss_mean)
    counts = good & ~spike
    losses = before.losses + counts
    moved = before.loss_mean + (loss - before.loss_mean) / jnp.clip(losses, 1, horizon)
    skipped_in_a_row = jnp.where(good, 0, before.skipped_in_a_row + 1)
    after = GuardState(
        skipped=before.skipped + ~good,
        skipped_in_a_row=skipped_in_a_row,
        losses=losses,
        loss_mean=jnp.where(counts, moved, before.loss_mean),
        rollbacks=before.rollbacks,
    )
    findings = {"skipped": after.skipped - before.skipped, "skipped_in_a_row": skipped_in_a_row}
    if config.spike is not None:
        findings |= {"spike": spike.astype(jnp.int32), "loss_mean": before.loss_mean}
        # Metrics are float32, which counts to 2 ** 24 without a gap.
        findings |= {"batches": state.batches + 1, "rollbacks": before.rollbacks}
    return after, findings


# -------------------------------------------------------------------------------- on the host


def after(config: GuardConfig, step: int, values: Mapping[str, float]) -> None:
    """Returns where training may continue; to be called for each update, in order.

    TrainingError after `max_skipped` skipped updates in a row and for a spike too many, RollBack
    for any other spike.
    """
    row = int(values["skipped_in_a_row"])
    if row >= config.max_skipped:
        bad = min((name for name in values if _is_bad(name, values)), key=_first_cause)
        since = f", like those since step {step - row + 1}" if row > 1 else ""
        raise TrainingError(
            f"{bad} of step {step} is {values[bad]}{since}, but must be finite: the last good "
            f"update is step {step - row}, and guard.max_skipped={config.max_skipped} may be "
            "skipped in a row; lower optim.peak_lr, set optim.clip_norm or look at the data"
        )
    if values.get("spike"):
        back = RollBack(step, values)
        if back.rollbacks > config.max_rollbacks:
            raise TrainingError(
                f"loss of step {step} is {back.loss:.4g}, more than guard.spike={config.spike} "
                f"times its mean {back.mean:.4g}, and guard.max_rollbacks={config.max_rollbacks} "
                "are used up: lower optim.peak_lr, set optim.clip_norm or look at the data"
            )
        raise back


def _is_bad(name: str, values: Mapping[str, float]) -> bool:
    return name.split("/")[0] in ("loss", "grad_norm") and not math.isfinite(values[name])


def _first_cause(name: str) -> tuple[bool, bool]:
    """Losses come before their gradients, and one model's before the sum over all."""
    return not name.startswith("loss"), "/" not in name


def judge(config: GuardConfig, found: Iterable[tuple[int, Mapping[str, float]]]) -> None:
    """`after`, for (step, values) of several updates in order."""
    for step, values in found:
        after(config, step, values)


def target(back: RollBack, saved: Iterable[int], every_steps: int) -> int:
    """The step to go back to: the newest saved one before the spike, or 0 for the very start.

    One that every run of this config saves: an extra one, of a run that was terminated, would end
    in other numbers than an undisturbed run. It is taken only where nothing else is left.
    """
    before = [step for step in saved if 0 < step < back.step]
    regular = [step for step in before if step % every_steps == 0]
    # A host that sees a new folder later than the others must not go elsewhere.
    return int(multihost_utils.broadcast_one_to_all(np.int32(max(regular or before, default=0))))


def skip_ahead(back: RollBack, state: TrainState) -> tuple[TrainState, dict[str, object]]:
    """The state that was gone back to, put behind the spike's data, and what the log says of it."""

    def put(value: int, like: jax.Array) -> jax.Array:
        return jax.device_put(np.asarray(value, like.dtype), like.sharding)

    event = {
        "from": back.step,
        "to": int(state.step),
        "skipped_batches": [int(state.batches), back.next_batch - 1],
        "spike_loss": back.loss,
        "loss_mean": back.mean,
    }
    rollbacks = put(back.rollbacks, state.guard.rollbacks)
    guarded = dataclasses.replace(state.guard, rollbacks=rollbacks)
    batches = put(back.next_batch, state.batches)
    return dataclasses.replace(state, batches=batches, guard=guarded), event
