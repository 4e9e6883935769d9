"""Checkpoints of a run: state by Orbax, and the config that it belongs to.

`<workdir>/config.json` is the whole resolved config; `<workdir>/checkpoints/<step>/state` the
parameters and moments after `step` updates, with a `checksums` item beside it. The position in the
data is the step itself. Orbax writes in the background under a temporary name and renames last: a
killed save leaves no step.
"""

import dataclasses
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from esam_jax import sharding
from esam_jax.config import RunConfig
from esam_jax.errors import CheckpointError, MissingError
from esam_jax.train.state import TrainState

CONFIG_FILE = "config.json"
CHECKPOINTS_FOLDER = "checkpoints"

# What a resumed run may change: how fast, how often and where, but not which numbers come out. A
# path is allowed because a mount may move; whether the same files lie there cannot be told.
# Another mesh, accumulation or attention kernel changes the order of sums: that is float rounding.
MAY_DIFFER = (
    "name",
    "log_every_steps",
    "save",
    "guard.checksum_every_steps",
    "guard.hang_seconds",
    "profile",
    "trackers",
    "data.source.path",
    "data.threads",
    "data.prefetch_batches",
    "data.max_broken_share",
    "compute.remat",
    "compute.attention",
    "mesh",
    "accumulate",
    "task.init_from",
    "task.teacher.weights",
    "task.teacher.placement",
    "evaluate",
)


class Checkpoints:
    """The saved steps of one run folder; a context manager that waits for the last save."""

    def __init__(self, cfg: RunConfig, workdir: Path) -> None:
        """MissingError when the folder cannot be written, CheckpointError when the checkpoints in
        it belong to another config."""
        self._folder = workdir.absolute() / CHECKPOINTS_FOLDER
        _probe(self._folder)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=cfg.save.keep, enable_async_checkpointing=True
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)
        try:
            self._settle_config(cfg, workdir / CONFIG_FILE)
        except BaseException:
            self._manager.close()
            raise

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        try:
            self._manager.close()  # waits for a save under way
        except Exception as fault:
            if error is None:
                raise self._failed(fault) from fault

    def latest(self) -> int | None:
        """Number of updates in the newest whole checkpoint."""
        return self._manager.latest_step()

    def restore(self, template: TrainState) -> TrainState:
        """The newest state, laid out as the abstract arrays of `template` are."""
        step = self.latest()
        assert step is not None
        return _restore(self._manager, self._folder, step, template)

    def save(self, step: int, state: TrainState) -> None:
        """Starts writing in the background; the state is copied before this returns."""
        # Orbax moves arrays to the host by its own means, which the loop's guard would refuse.
        with jax.transfer_guard("allow"):
            try:
                args = ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    checksums=ocp.args.JsonSave(checksums(state)),
                )
                self._manager.save(step, args=args, force=True)
            except Exception as fault:
                raise self._failed(fault) from fault

    def check(self) -> None:
        """CheckpointError if a save has failed in the background."""
        try:
            self._manager.check_for_errors()
        except Exception as fault:
            raise self._failed(fault) from fault

    def wait(self) -> None:
        """Returns when the last save is whole."""
        try:
            self._manager.wait_until_finished()
        except Exception as fault:
            raise self._failed(fault) from fault

    def _failed(self, fault: Exception) -> CheckpointError:
        return CheckpointError(
            f"a checkpoint could not be written to {self._folder} ({_one_line(fault)}); make room "
            "or mend the disk, then run the same command: it resumes from the last whole checkpoint"
        )

    def _settle_config(self, cfg: RunConfig, file: Path) -> None:
        """Compares with the config of the run so far, if a checkpoint is left, and writes ours."""
        if self.latest() is not None:
            found = differences(_read_json(file), to_json(cfg))
            if found:
                raise CheckpointError(
                    f"{file} belongs to another run: {'; '.join(found)}. Give these values, or "
                    "another workdir"
                )
        if jax.process_index() == 0:
            _write_whole(file, json.dumps(to_json(cfg), indent=2) + "\n")


def newest(workdir: Path) -> int:
    """As `Checkpoints.latest`, or 0, of a run folder that need not be there; writes nothing."""
    return max(steps(workdir), default=0)


def steps(workdir: Path) -> list[int]:
    """The steps that a run folder keeps, in order; writes nothing."""
    # A step that is not whole has a longer name.
    names = [path.name for path in (workdir / CHECKPOINTS_FOLDER).glob("*")]
    return sorted(int(name) for name in names if name.isdecimal())


def load(workdir: Path, step: int, template: TrainState) -> TrainState:
    """One state that a run keeps, laid out as `template`; writes nothing."""
    folder = workdir.absolute() / CHECKPOINTS_FOLDER
    options = ocp.CheckpointManagerOptions(read_only=True)
    with ocp.CheckpointManager(folder, options=options) as manager:
        return _restore(manager, folder, step, template)


def _restore(
    manager: ocp.CheckpointManager, folder: Path, step: int, template: TrainState
) -> TrainState:
    where = f"checkpoint {folder / str(step)}"
    remedy = "move that folder away to go on from the one before"
    try:
        restored = manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(template), checksums=ocp.args.JsonRestore()
            ),
        )
    except Exception as fault:  # Orbax and TensorStore raise built-ins of many kinds
        raise CheckpointError(f"{where} cannot be read ({_one_line(fault)}); {remedy}") from fault
    state, wanted = restored["state"], restored["checksums"]
    found = checksums(state)
    damaged = [path for path in found if found[path] != wanted.get(path)]
    if damaged:
        raise CheckpointError(f"{where} is damaged in {', '.join(damaged)}; {remedy}")
    return state


def checksums(state: TrainState) -> dict[str, int]:
    """A number for every leaf that any single changed bit changes, whatever the mesh.

    TensorStore guards its indices, but loads a flipped bit of a large array without a word.
    """
    leaves = jax.tree_util.tree_leaves_with_path(state)
    sums = jax.device_get([_word_sum(leaf) for _, leaf in leaves])
    return {sharding.name(path): int(total) for (path, _), total in zip(leaves, sums)}


@jax.jit
def _word_sum(x: jax.Array) -> jax.Array:
    """Sum of the bit patterns modulo 2 ** 32: integers, so that the order does not matter."""
    words = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))
    return jnp.sum(words, dtype=jnp.uint32)


def to_json(cfg: RunConfig) -> dict[str, Any]:
    """The config as plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(cfg)))


def differences(saved: Any, current: Any, path: str = "") -> list[str]:
    """What a resumed run may not change, as "optim.peak_lr was 0.1, is 0.2", one for each value."""
    if path in MAY_DIFFER or saved == current:
        return []
    if isinstance(saved, dict) and isinstance(current, dict):
        keys = [*current, *(key for key in saved if key not in current)]
        pairs = [(f"{path}.{key}".lstrip("."), saved.get(key), current.get(key)) for key in keys]
        return [line for key, old, new in pairs for line in differences(old, new, key)]
    return [f"{path} was {json.dumps(saved)}, is {json.dumps(current)}"]


def _probe(folder: Path) -> None:
    """MissingError, before anything expensive, if nothing can be written there."""
    # Hosts that share the folder may have the same process id.
    probe = folder / f".probe.{jax.process_index()}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as fault:
        raise MissingError(
            f"workdir {folder.parent} cannot be written ({fault.strerror}): "
            "name another with --workdir"
        ) from fault


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as fault:
        raise CheckpointError(
            f"{file} is missing or damaged ({fault}), so the checkpoints beside it cannot be "
            "trusted: name another workdir"
        ) from fault


def _write_whole(file: Path, text: str) -> None:
    fresh = file.with_name(f".{file.name}.{os.getpid()}.new")
    fresh.write_text(text)
    fresh.replace(file)


def _one_line(fault: Exception) -> str:
    return f"{type(fault).__name__}: {' '.join(str(fault).split())[:500]}"
