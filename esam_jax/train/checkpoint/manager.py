"""Checkpoints of a run: Orbax's CheckpointManager, with the checks that it does not make.

`<workdir>/checkpoints/<step>/state` holds parameters, moments and position in the data after `step`
updates, with a `checksums` item beside it. Orbax writes in the background under a temporary name
and renames last: a killed save leaves no step. docs/checkpoints.md lists what is added, and why.
"""

import contextlib
import os
import queue
import shutil
import warnings
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from esam_jax import files
from esam_jax.config import SaveConfig
from esam_jax.errors import CheckpointError, DiskError, one_line
from esam_jax.processes import alert as alerts
from esam_jax.processes import leader
from esam_jax.processes.barrier import CalledOffError, SaveBarrier
from esam_jax.runs import owner
from esam_jax.train.checkpoint import quiet, reader, retention, step_folders
from esam_jax.train.state import TrainState

_SLACK = 1.05  # a checkpoint on disk, as a multiple of the bytes of its arrays
_ERRORS = 8  # more than Orbax's threads can raise after one save
_COMMIT_SECONDS = 600  # the longest that hosts wait for each other's part of one checkpoint
_NO_ROOM = "MB free, but"
_REMEDY = "move that folder away, or set --save.damaged fallback, to resume from the one before"


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, which leaves preemption to processes/stop.py.

    It would report its own steps to JAX's preemption service, from a thread too; JAX stops all
    hosts at the number after the highest that was reported, which the train loop then never meets.
    """

    def reached_preemption(self, step: int) -> bool:
        return False


class Checkpoints:
    """The saved steps of one run folder.

    A context manager that waits for the last save. Several processes call every method alike;
    process 0 alone lists and deletes.
    """

    def __init__(
        self,
        save: SaveConfig,
        workdir: Path,
        template: TrainState | None = None,
        *,
        alert: alerts.Send = alerts.to_nobody,
    ) -> None:
        """CheckpointError when the folder holds checkpoints of another tree than `template`, or has
        no room for two; MissingError when it cannot be written, DiskError when it could be before.
        """
        self._config, self._alert = save, alert
        self._folder = workdir.absolute() / step_folders.CHECKPOINTS_FOLDER
        self._news: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._failures = 0
        self._commit: Future[None] | None = None
        self._pending_step = 0
        with owner.writing(workdir, resumed=newest(workdir) > 0):
            self._folder.mkdir(parents=True, exist_ok=True)
            _probe(self._folder / f".probe.{jax.process_index()}.{os.getpid()}")
        leader.decide(lambda: self._open(template))
        self._waiting = ThreadPoolExecutor(1, "commit")
        self._barrier = SaveBarrier()
        self._quiet = quiet.quiet()
        self._manager: _Manager | None = None

    def _open(self, template: TrainState | None) -> None:
        """What process 0 does before anything is read or compiled."""
        step_folders.tidy(self._folder)
        if self.latest() == 0:  # of a run that did no update, and starts again
            self._drop_after(-1)
        newest = self.latest()
        for step in step_folders.unmarked(self._folder):
            # An older one is what a killed deletion has left: the next save deletes the rest.
            if newest is None or step > newest:
                place = step_folders.quarantine(self._folder, step, "uncommitted")
                self._tell(f"checkpoint {step} has lost its commit marker: it is {place.name} now")
        if template is None:
            return
        if newest is not None and (
            found := reader.differences(self._folder / str(newest), template)
        ):
            raise CheckpointError(
                f"{self._folder.parent} belongs to another run: {'; '.join(found)}. Give these "
                "values, or another workdir"
            )
        # A resumed run has its two: it needs room for the next, before the oldest is deleted.
        if lacking := lack(self._folder, template, 2 if newest is None else 1):
            self._alert("full_disk", lacking)
            if newest is None or self._config.full_disk == "stop":
                raise CheckpointError(lacking)
            self._tell(f"{lacking}; training continues")

    def __enter__(self) -> "Checkpoints":
        self._quiet.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        try:
            self.wait()
            self.check()
        except (CheckpointError, DiskError):
            if error is None:
                raise
        finally:
            self._waiting.shutdown()
            self._close()
            self._quiet.__exit__(None, None, None)
            if self._failures and jax.process_index() == 0:
                step_folders.tidy(self._folder)

    def latest(self) -> int | None:
        """Number of updates in the newest committed checkpoint."""
        return max(step_folders.steps(self._folder), default=None)

    def restore(self, template: TrainState) -> TrainState:
        """The newest state that reads as it was written, laid out as the arrays of `template`.

        CheckpointError where the newest does not and `save.damaged` says to stop. With "fallback"
        it is quarantined, and `latest` then gives the step that was used. Nothing is quarantined
        unless an older one reads well: where none does, the disk may be at fault (DiskError), and
        the next start must not begin at step 0, not even from the start that is kept.
        """
        faults: dict[int, str] = {}
        for step in leader.decide(lambda: [x for x in step_folders.steps(self._folder)[::-1] if x]):
            path = self._folder / str(step)
            if found := leader.decide(lambda path=path: reader.differences(path, template)):
                raise CheckpointError(f"{path} has another tree: {'; '.join(found)}")
            try:
                state = reader.read(path, template)
            except reader.DamagedError as fault:
                if jax.process_index() == 0:
                    self._alert("damaged_checkpoint", f"checkpoint {path} {fault}")
                if self._config.damaged == "stop":
                    raise CheckpointError(f"checkpoint {path} {fault}; {_REMEDY}") from fault
                faults[step] = str(fault)
                continue
            leader.decide(lambda: self._quarantine(faults))
            return state
        listed = "; ".join(f"{step} {fault}" for step, fault in faults.items())
        raise DiskError(
            f"{self._folder} holds no checkpoint that can be read ({listed}). None was changed: "
            "once the disk answers again, run the same command; to start from scratch, name "
            "another workdir"
        )

    def best(self) -> int | None:
        """Number of updates in the checkpoint that measured best by `save.best`, if any did."""
        metric = self._config.best
        if metric is None:
            return None
        return retention.best(self._folder, metric, step_folders.steps(self._folder))

    def go_back(self, step: int) -> None:
        """Drops what was saved after `step`, so that it is the newest; all of it for 0, which is
        the start and saved again."""
        self.wait()
        leader.decide(lambda: self._drop_after(step or -1))

    def save(self, step: int, state: TrainState) -> None:
        """Starts writing in the background; the state may be donated as soon as this returns.

        A save that fails here is reported as one that fails later: see `check`.
        """
        self.wait()
        if refusal := leader.decide(lambda: self._refusal(step, state)):
            return self._failed(step, refusal)
        self._barrier.begin()
        # Orbax moves arrays to the host by its own means, which the loop's guard would refuse.
        with jax.transfer_guard("allow"):
            if self._manager is None:
                self._manager = _manager(self._config, self._folder, self._barrier)
            else:
                self._manager.reload()  # what was quarantined or dropped is not on the disk
            args = ocp.args.Composite(
                state=ocp.args.PyTreeSave(reader.fields(state)),
                checksums=ocp.args.JsonSave(reader.checksums_item(state)),
            )
            try:
                self._manager.save(step, args=args, force=True)
            except Exception as fault:  # Orbax and TensorStore raise built-ins of many kinds
                self._close()
                # Alone past a barrier at which the others wait, this host must not train on.
                return self._failed(step, one_line(fault), fault, fatal=jax.process_count() > 1)
        self._pending_step = step
        self._commit = self._waiting.submit(self._manager.wait_until_finished)

    def check(self) -> list[dict[str, Any]]:
        """What has happened since the last call, ready for metrics.jsonl; never waits.

        DiskError if a save has failed in the background, unless `save.full_disk` says to continue.
        Later saves happen all the same.
        """
        if self._commit is not None and self._commit.done():
            self.wait()
        news = []
        while not self._news.empty():
            news.append(self._news.get())
            warnings.warn(news[-1]["event"], UserWarning, stacklevel=2)
        return news

    def wait(self) -> None:
        """Returns when the last save is committed; errors as `check`."""
        commit, self._commit = self._commit, None
        if commit is None:
            return
        try:
            commit.result()
        except Exception as fault:
            self._close()
            if isinstance(fault, CalledOffError) and isinstance(fault.__context__, Exception):
                fault = fault.__context__  # why this host could not write its part
            self._failed(self._pending_step, one_line(fault), fault)

    def score(self, step: int, values: Mapping[str, Any]) -> None:
        """Records what the evaluation measured after `step` updates, for `save.best`."""
        best = self._config.best
        if best is None or best not in values or jax.process_index() > 0:
            return  # no picture could be read, or process 0 records it
        try:
            retention.note_score(self._folder, step, best, float(values[best]))
        except OSError as fault:
            self._tell(f"the score of checkpoint {step} could not be written ({fault.strerror})")

    def _close(self) -> None:
        """Waits for all threads of Orbax's manager; a later save makes a new one.

        Several threads may fail in one save, and each error is raised once, to whoever waits next:
        it must not be taken for one of the next save.
        """
        manager, self._manager = self._manager, None
        if manager is None:
            return
        for _ in range(_ERRORS):
            with contextlib.suppress(Exception):
                manager.close()
                return

    # --------------------------------------------------------------------- of a save

    def _refusal(self, step: int, state: TrainState) -> str | None:
        """Why a save cannot even begin; CheckpointError where it would hide newer steps."""
        newer = [there for there in step_folders.steps(self._folder) if there >= step]
        if newer:
            raise CheckpointError(
                f"{self._folder} holds step {newer[-1]}, which is not older than step {step} to be "
                "saved: nothing is overwritten; move the newer ones away"
            )
        step_folders.tidy(self._folder)  # half a checkpoint may be what fills the disk
        if lacking := lack(self._folder, state, 1):
            return lacking
        try:
            # Orbax makes its folders between two barriers: a failure there must be known before.
            _probe(self._folder / f"{step}{step_folders.UNFINISHED}-probe")
        except OSError as fault:
            return one_line(fault)
        return None

    def _failed(
        self, step: int, why: str, fault: Exception | None = None, *, fatal: bool = False
    ) -> None:
        self._failures += 1
        if jax.process_index() == 0:
            step_folders.tidy(self._folder)
        # Of the error itself: one line of it may be cut before the words that say so.
        full = files.is_full(why if fault is None else fault) or _NO_ROOM in why
        if full and _NO_ROOM not in why:
            why = "the disk is full"  # for which Orbax has many words
        message = f"checkpoint {step} could not be written to {self._folder} ({why})"
        self._alert("full_disk" if full else "failed_save", message)
        if self._config.full_disk == "continue" and not fatal:
            self._tell(f"{message}; training continues", saves_failed=self._failures)
            return
        raise DiskError(
            f"{message}; make room or repair the disk, then run the same command: it resumes from "
            "the last committed checkpoint"
        ) from fault

    def _tell(self, event: str, **more: Any) -> None:
        self._news.put({"event": event, **more})

    def _drop_after(self, step: int) -> None:
        for later in step_folders.steps(self._folder):
            if later > step:
                step_folders.remove(self._folder, later)
        retention.forget_scores(self._folder, step)

    # ------------------------------------------------------------------ of a restore

    def _quarantine(self, faults: Mapping[int, str]) -> None:
        for step, fault in faults.items():
            place = step_folders.quarantine(self._folder, step, "damaged")
            self._tell(f"checkpoint {step} {fault}: it is {place.name} now, the one before is used")


def newest(workdir: Path) -> int:
    """As `Checkpoints.latest`, or 0, of a run folder that need not exist; writes nothing."""
    return max(steps(workdir), default=0)


def steps(workdir: Path) -> list[int]:
    """The steps that a run folder keeps, in order; writes nothing."""
    return step_folders.steps(workdir / step_folders.CHECKPOINTS_FOLDER)


def lack(folder: Path, state: TrainState, copies: int) -> str | None:
    """A sentence, unless the disk of a folder has room for so many checkpoints of this state."""
    need = round(copies * _SLACK * sum(_bytes(leaf) for leaf in jax.tree.leaves(state)))
    free = step_folders.free_bytes(folder)
    if free >= need:
        return None
    return (
        f"{folder} has {free / 1e6:.1f} {_NO_ROOM} {copies} checkpoint(s) need "
        f"{need / 1e6:.1f} MB: make room, or name another folder with --workdir"
    )


def load(workdir: Path, step: int, template: TrainState) -> TrainState:
    """One state that a run keeps, laid out as `template`; writes nothing."""
    path = workdir.absolute() / step_folders.CHECKPOINTS_FOLDER / str(step)
    try:
        return reader.read(path, template)
    except reader.DamagedError as fault:
        raise CheckpointError(f"checkpoint {path} {fault}; {_REMEDY}") from fault


def _manager(save: SaveConfig, folder: Path, barrier: SaveBarrier) -> _Manager:
    # Compressing float32 weights saves a fifteenth and costs twice the time of writing them.
    handler = ocp.PyTreeCheckpointHandler(use_compression=False)
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    registry.add(step_folders.STATE, ocp.args.PyTreeSave, handler)
    return _Manager(
        folder,
        handler_registry=registry,
        options=ocp.CheckpointManagerOptions(
            create=False,
            save_root_metadata=False,
            single_host_load_and_broadcast=True,  # two hosts may see different lists
            preservation_policy=retention.policy(save, folder),
            async_options=ocp.options.AsyncOptions(
                timeout_secs=_COMMIT_SECONDS,
                barrier_sync_fn=barrier,
                # Made in the background, a folder that cannot be made leaves threads that wait for
                # it for five minutes, and no process ends before its threads.
                create_directories_asynchronously=False,
            ),
        ),
    )


def _bytes(leaf: Any) -> int:
    return leaf.size * np.dtype(leaf.dtype).itemsize


def _probe(folder: Path) -> None:
    """OSError, before anything expensive, if no folder can be written there."""
    folder.mkdir()
    try:
        (folder / "file").write_bytes(bytes(4096))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
