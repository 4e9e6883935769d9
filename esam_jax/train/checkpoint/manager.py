"""Checkpoints of a run: its state by Orbax, checked on the way out and on the way back.

`<workdir>/checkpoints/<step>/state` holds parameters, moments and position in the data after `step`
updates, with a `checksums` item beside it. Orbax writes in the background under a temporary name
and renames last: a killed save leaves no step. What was written is read back, and only a step that
came back whole counts when older ones are deleted.
"""

import contextlib
import os
import queue
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from esam_jax.config import RunConfig
from esam_jax.errors import CheckpointError, DiskError, MissingError, one_line
from esam_jax.processes import leader
from esam_jax.processes.barrier import Rendezvous
from esam_jax.runs import config_file
from esam_jax.runs.lease import Lease
from esam_jax.train.checkpoint import checksums, leaks, step_folders, stragglers, verify
from esam_jax.train.checkpoint.retention import Keeper
from esam_jax.train.state import TrainState

_SLACK = 1.05  # a checkpoint on disk, as a multiple of the bytes of its arrays
_THREADS = 4  # more than Orbax has that can fail in one save
_LATE_SECONDS = 5.0  # for the threads of a failed save to end
_COMMIT_SECONDS = 600  # the longest that hosts wait for each other's part of one checkpoint
_REMEDY = "move that folder away, or set --save.damaged fallback, to go on from the one before"


class Checkpoints:
    """The saved steps of one run folder, which no other job may use meanwhile.

    A context manager that waits for the last save. Several processes call every method alike;
    process 0 alone lists, verifies and deletes.
    """

    def __init__(self, cfg: RunConfig, workdir: Path, template: TrainState | None = None) -> None:
        """CheckpointError when another job uses the folder, or it holds the checkpoints of another
        config or tree of `template`, or has no room for two; MissingError when it cannot be
        written, DiskError when it could be before.
        """
        self._cfg, self._workdir = cfg, workdir.absolute()
        self._folder = self._workdir / step_folders.CHECKPOINTS_FOLDER
        self._lease: Lease | None = None
        self._news: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._failures = 0
        self._commit: Future[None] | None = None
        self._pending_step = 0
        try:
            _probe(self._folder)
            leader.decide(lambda: self._open(template))
        except BaseException as fault:
            if self._lease is not None:
                self._lease.release()
            if isinstance(fault, MissingError) and newest(workdir):
                raise DiskError(f"{fault}. It could be written before: start again") from fault
            raise
        leaks.stop()
        self._keeper = Keeper(cfg.save, self._folder, verify.fault, self._tell)
        self._committing = ThreadPoolExecutor(1, "commit")
        self._rendezvous = Rendezvous(_COMMIT_SECONDS)
        self._checkpointer = ocp.AsyncCheckpointer(
            _handler(),
            async_options=ocp.options.AsyncOptions(
                timeout_secs=_COMMIT_SECONDS, barrier_sync_fn=self._rendezvous
            ),
        )

    def _open(self, template: TrainState | None) -> None:
        """What process 0 sees to before anything is read or compiled."""
        self._lease = Lease(self._workdir)
        step_folders.tidy(self._folder)
        for step in step_folders.unmarked(self._folder):
            place = step_folders.set_aside(self._folder, step, "uncommitted")
            self._tell(f"checkpoint {step} has lost its commit marker: it is {place.name} now")
        newest = self.latest()
        if newest is not None:
            found = config_file.with_stored(self._cfg, self._workdir)
            found += [] if template is None else self._tree_differences(newest, template)
            if found:
                raise CheckpointError(
                    f"{self._workdir} belongs to another run: {'; '.join(found)}. Give these "
                    "values, or another workdir"
                )
        # A run that goes on has its two: it needs room for the next, before the oldest goes.
        copies = 2 if newest is None else 1
        if template is not None and (lack := self._lack(template, copies)):
            if newest is None or self._cfg.save.full_disk == "stop":
                raise CheckpointError(lack)
            self._tell(f"{lack}; training goes on")
        try:
            config_file.store(self._cfg, self._workdir)
        except OSError as fault:
            raise MissingError(
                f"{self._workdir} cannot be written ({fault.strerror}): make room or name another "
                "folder with --workdir"
            ) from fault

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        try:
            self.wait()
            self._sweep()
            self.check()
        except (CheckpointError, DiskError):
            if error is None:
                raise
        finally:
            self._committing.shutdown()
            self._keeper.close()
            if self._failures:
                self._drain()
            self._checkpointer.close()
            if self._lease is not None:
                self._lease.release()

    def latest(self) -> int | None:
        """Number of updates in the newest whole checkpoint."""
        return max(step_folders.steps(self._folder), default=None)

    def restore(self, template: TrainState) -> TrainState:
        """The newest state, laid out as the abstract arrays of `template` are.

        `latest` tells its step afterwards: by `save.damaged` it is an older one than before.
        """
        step = leader.decide(lambda: self._newest_good(template))
        return _restore(self._checkpointer, self._folder / str(step), template)

    def go_back(self, step: int) -> None:
        """Drops what was saved after `step`, so that it is the newest."""
        self.wait()

        def drop() -> None:
            for later in step_folders.steps(self._folder):
                if later > step:
                    step_folders.remove(self._folder, later)

        leader.decide(drop)
        self._keeper.forget(step)

    def save(self, step: int, state: TrainState) -> None:
        """Starts writing in the background; the state may be donated as soon as this returns.

        A save that fails here is told as one that fails later: see `check`.
        """
        self._settle()
        self._sweep()
        if refusal := leader.decide(lambda: self._refusal(step, state)):
            return self._failed(step, refusal)
        self._rendezvous.begin()
        # Orbax moves arrays to the host by its own means, which the loop's guard would refuse.
        with jax.transfer_guard("allow"):
            args = ocp.args.Composite(
                state=ocp.args.PyTreeSave(state),
                checksums=ocp.args.JsonSave(checksums.of(state)),
            )
            try:
                self._checkpointer.save(self._folder / str(step), args=args)
            except Exception as fault:  # Orbax and TensorStore raise built-ins of many kinds
                self._clear(step, fault)
                return self._failed(step, one_line(fault), fault)
        self._pending_step = step
        self._commit = self._committing.submit(self._finish, step)

    def check(self) -> list[dict[str, Any]]:
        """What has happened since the last call, ready for metrics.jsonl; never waits.

        DiskError if a save has failed in the background (unless `save.full_disk` says to continue),
        CheckpointError if another job has taken the folder. Later saves happen all the same.
        """
        if self._commit is not None and self._commit.done():
            self._settle()
        if self._lease is not None:
            self._lease.check()
        news = []
        while not self._news.empty():
            news.append(self._news.get())
            warnings.warn(news[-1]["event"], UserWarning, stacklevel=2)
        return news

    def wait(self) -> None:
        """Returns when the last save is whole, and was read back."""
        self._settle()
        self._keeper.wait()

    def score(self, step: int, values: Mapping[str, Any]) -> None:
        """Takes what the evaluation gave after `step` updates, for `save.best`."""
        self._keeper.score(step, values)

    # ------------------------------------------------------------------ before a save

    def _refusal(self, step: int, state: TrainState) -> str | None:
        """Why a save cannot even begin; CheckpointError where it would hide newer steps."""
        newer = [there for there in step_folders.steps(self._folder) if there >= step]
        if newer:
            raise CheckpointError(
                f"{self._folder} holds step {newer[-1]}, which is not older than step {step} to be "
                "saved: nothing is overwritten; move the newer ones away"
            )
        return self._lack(state, 1)

    def _lack(self, state: TrainState, copies: int) -> str | None:
        """A sentence, unless there is room for so many checkpoints."""
        need = round(copies * _SLACK * sum(_bytes(leaf) for leaf in jax.tree.leaves(state)))
        free = step_folders.free_bytes(self._folder)
        if free >= need:
            return None
        return (
            f"{self._folder} has {free / 1e6:.1f} MB free, but {copies} checkpoint(s) need "
            f"{need / 1e6:.1f} MB: make room, or name another folder with --workdir"
        )

    # ------------------------------------------------------------------- after a save

    def _settle(self) -> None:
        """Waits until the last save is whole, and tells if it is not."""
        commit, self._commit = self._commit, None
        if commit is None:
            return
        try:
            commit.result()
        except Exception as fault:
            self._failed(self._pending_step, one_line(fault), fault)

    def _finish(self, step: int) -> None:
        try:
            self._checkpointer.wait_until_finished()
        except Exception as fault:
            self._clear(step, fault)
            raise
        self._keeper.written(step)

    def _clear(self, step: int, fault: Exception) -> None:
        """Leaves nothing of a failed save: not on the disk, nor for the next save to fail of."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # a host that is lost ends all anyway
            self._rendezvous.call_off(one_line(fault))
        self._drain()
        if jax.process_index() == 0:
            step_folders.tidy(self._folder, step)  # half a checkpoint may be what fills the disk

    def _drain(self) -> None:
        """Takes what Orbax's threads have to complain of: each tells it once, whoever waits."""
        stragglers.end(_LATE_SECONDS)
        for _ in range(_THREADS):
            with contextlib.suppress(Exception):
                self._checkpointer.wait_until_finished()
                return

    def _sweep(self) -> None:
        """Between two saves: what late writers of a failed save have left after `_clear`.

        The first array that fails ends a save, while others are still on their way to the disk:
        the next save must neither find their files nor be told their errors.
        """
        if not self._failures:
            return
        self._drain()
        if jax.process_index() == 0:
            step_folders.tidy(self._folder)

    def _failed(self, step: int, why: str, fault: Exception | None = None) -> None:
        self._failures += 1
        message = f"checkpoint {step} could not be written to {self._folder} ({why})"
        if self._cfg.save.full_disk == "continue":
            self._tell(f"{message}; training goes on", saves_failed=self._failures)
            return
        raise DiskError(
            f"{message}; make room or mend the disk, then run the same command: it resumes from "
            "the last whole checkpoint"
        ) from fault

    def _tell(self, event: str, **more: Any) -> None:
        self._news.put({"event": event, **more})

    # ---------------------------------------------------------------- before a restore

    def _newest_good(self, template: TrainState) -> int:
        """The newest step that reads as it was written; what is not is refused or set aside.

        Nothing is set aside unless an older one reads well: where none does the disk may be at
        fault, and the next start must not begin at step 0.
        """
        faults: dict[int, str] = {}
        for step in reversed(step_folders.steps(self._folder)):
            path = self._folder / str(step)
            fault = verify.fault(path) or verify.unreadable(path)
            if fault is None:
                if found := self._tree_differences(step, template):
                    raise CheckpointError(f"{path} has another tree: {'; '.join(found)}")
                self._set_aside(faults)
                step_folders.mark_verified(self._folder, step)
                return step
            if self._cfg.save.damaged == "stop":
                raise CheckpointError(f"checkpoint {path} {fault}; {_REMEDY}")
            faults[step] = fault
        listed = "; ".join(f"{step} {fault}" for step, fault in faults.items())
        raise DiskError(
            f"{self._folder} holds no checkpoint that can be read ({listed}). None was touched: "
            "when the disk answers again, run the same command; to start anew, name another workdir"
        )

    def _set_aside(self, faults: Mapping[int, str]) -> None:
        for step, fault in faults.items():
            place = step_folders.set_aside(self._folder, step, "damaged")
            self._tell(f"checkpoint {step} {fault}: it is {place.name} now, the one before is used")

    def _tree_differences(self, step: int, template: TrainState) -> list[str]:
        """[] also where the tree cannot be read, which is for `restore` to tell."""
        try:
            saved = config_file.kinds(verify.tree(self._folder / str(step)))
        except Exception:
            return []
        return config_file.tree_differences(saved, config_file.kinds(template))


def newest(workdir: Path) -> int:
    """As `Checkpoints.latest`, or 0, of a run folder that need not be there; writes nothing."""
    return max(steps(workdir), default=0)


def steps(workdir: Path) -> list[int]:
    """The steps that a run folder keeps, in order; writes nothing."""
    return step_folders.steps(workdir / step_folders.CHECKPOINTS_FOLDER)


def load(workdir: Path, step: int, template: TrainState) -> TrainState:
    """One state that a run keeps, laid out as `template`; writes nothing."""
    path = workdir.absolute() / step_folders.CHECKPOINTS_FOLDER / str(step)
    with ocp.Checkpointer(_handler()) as reader:
        return _restore(reader, path, template)


def _handler() -> ocp.CompositeCheckpointHandler:
    return ocp.CompositeCheckpointHandler(
        # Compressing float32 weights saves a fifteenth and costs twice the time of writing them.
        state=ocp.PyTreeCheckpointHandler(use_compression=False),
        checksums=ocp.JsonCheckpointHandler(),
    )


def _restore(reader: ocp.Checkpointer, path: Path, template: TrainState) -> TrainState:
    targets = ocp.checkpoint_utils.construct_restore_args(template)
    args = ocp.args.Composite(
        state=ocp.args.PyTreeRestore(template, restore_args=targets),
        checksums=ocp.args.JsonRestore(),
    )
    try:
        restored = reader.restore(path, args=args)
    except Exception as fault:
        raise CheckpointError(
            f"checkpoint {path} cannot be read ({one_line(fault)}); {_REMEDY}"
        ) from fault
    state, wanted = restored["state"], restored["checksums"]
    if damaged := verify.unequal(checksums.of(state), wanted):
        raise CheckpointError(f"checkpoint {path} {damaged}; {_REMEDY}")
    return state


def _bytes(leaf: Any) -> int:
    return leaf.size * np.dtype(leaf.dtype).itemsize


def _probe(folder: Path) -> None:
    """MissingError, before anything expensive, if nothing can be written there."""
    # Hosts that share the folder may have the same process id.
    probe = folder / f".probe.{jax.process_index()}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as fault:
        raise MissingError(
            f"workdir {folder.parent} cannot be written ({fault.strerror}): "
            "name another with --workdir"
        ) from fault
