"""Any order of saves, failing saves, kills, damage and outages leaves the newest intact step.

A machine draws the order. What it expects is simple: a step that was saved and not damaged reads
as it was written, and the next start resumes from the newest of those.
"""

import contextlib
import errno
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers import steps
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from esam_jax.config import SaveConfig
from esam_jax.errors import DiskError
from esam_jax.train.checkpoint import manager, reader, step_folders
from esam_jax.train.checkpoint.manager import Checkpoints

# Where a write fails, Orbax leaves threads behind whose loops are closed under them.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

_CONFIG = {"damaged": "fallback", "full_disk": "continue"}


def unmark(step_folder: Path) -> None:
    (step_folder / "commit_success.txt").unlink()


def refuse(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fail(*args: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


class Disk(RuleBasedStateMachine):
    """A run folder, and the numbers of its steps that were damaged since they were written."""

    def __init__(self) -> None:
        super().__init__()
        self.workdir = Path(tempfile.mkdtemp())
        self.damaged: set[int] = set()
        self.step = 0  # that the run has reached
        self.open()

    def open(self) -> None:
        self.checkpoints = Checkpoints(
            SaveConfig(**_CONFIG), self.workdir, steps.template()
        ).__enter__()

    def close(self) -> None:
        self.checkpoints.__exit__(None, None, None)

    def teardown(self) -> None:
        self.close()
        shutil.rmtree(self.workdir)

    @property
    def kept(self) -> list[int]:
        return manager.steps(self.workdir)

    def save(self) -> list[dict]:
        """The next step, and what is reported of it."""
        self.step += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they say the same
            self.checkpoints.save(self.step, steps.state(self.step))
            self.checkpoints.wait()
            return self.checkpoints.check()

    @rule()
    def a_save_is_committed(self) -> None:
        assert self.save() == []
        assert self.kept[-1] == self.step

    @rule(how=st.sampled_from(["no room", "while it is written", "when it is finished"]))
    def a_save_fails(self, how: str) -> None:
        before = self.kept
        fault = {
            "no room": lambda: mock.patch.object(step_folders, "free_bytes", lambda folder: 0),
            "while it is written": lambda: mock.patch.object(
                ocp.PyTreeCheckpointHandler, "async_save", refuse
            ),
            "when it is finished": lambda: mock.patch.object(
                ocp.CompositeCheckpointHandler, "finalize", refuse
            ),
        }[how]
        with fault():
            (event,) = self.save()
        assert "training continues" in event["event"] and event["saves_failed"] > 0
        assert self.kept == before

    @precondition(lambda self: set(self.kept) - self.damaged)
    @rule(which=st.randoms(), damage=st.sampled_from([steps.flip, steps.cut, unmark]))
    def a_step_is_damaged(self, which, damage) -> None:
        step = which.choice(sorted(set(self.kept) - self.damaged))
        folder = self.workdir / step_folders.CHECKPOINTS_FOLDER / str(step)
        if damage is unmark:
            unmark(folder)
        else:
            steps.spoil(folder, damage)
        self.damaged.add(step)

    @precondition(lambda self: self.kept)
    @rule()
    def killed_while_it_saved(self) -> None:
        """Half of a step lies there under Orbax's own name."""
        folder = self.workdir / step_folders.CHECKPOINTS_FOLDER
        half = folder / f"{self.step + 1}.orbax-checkpoint-tmp"
        if not half.exists():
            shutil.copytree(folder / str(self.kept[-1]), half)
            steps.spoil(half, steps.cut)

    @rule(outage=st.booleans())
    def the_run_starts_again(self, outage: bool) -> None:
        self.close()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.open()
            there = self.kept
            whole = [step for step in there if step not in self.damaged]
            if not there:
                self.step = 0
            elif outage or not whole:
                self.nothing_can_be_read(outage)
                assert self.kept == there
            else:
                self.resumes_from(whole[-1])
            self.checkpoints.check()
        if not self.kept or (there and not whole):
            self.a_person_starts_over()

    def nothing_can_be_read(self, outage: bool) -> None:
        reads = mock.patch.object(reader, "_restore", fail)
        with reads if outage else contextlib.nullcontext(), pytest.raises(DiskError):
            self.checkpoints.restore(steps.template())

    def resumes_from(self, newest: int) -> None:
        found = self.checkpoints.restore(steps.template())
        leaves = zip(*map(jax.tree.leaves, (steps.state(newest), found)), strict=True)
        for wanted, leaf in leaves:
            np.testing.assert_array_equal(wanted, leaf)
        assert self.checkpoints.latest() == self.step_of(found) == newest
        self.step = newest
        self.damaged &= set(self.kept)
        assert not [*(self.workdir / step_folders.CHECKPOINTS_FOLDER).glob("*tmp*")]

    @staticmethod
    def step_of(state) -> int:
        return int(state.step)

    def a_person_starts_over(self) -> None:
        self.close()
        shutil.rmtree(self.workdir / step_folders.CHECKPOINTS_FOLDER)
        self.step, self.damaged = 0, set()
        self.open()


TestDisk = Disk.TestCase
TestDisk.settings = settings(
    max_examples=8,
    stateful_step_count=14,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
