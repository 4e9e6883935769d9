"""What happens between updates: each job knows when it is due."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from esam_jax.config import GuardConfig, RunConfig
from esam_jax.processes.watchdog import Watchdog
from esam_jax.runs import early_stop
from esam_jax.tasks.task import Measure
from esam_jax.train import guard
from esam_jax.train.checkpoint.manager import Checkpoints
from esam_jax.train.replicas import Replicas
from esam_jax.train.state import TrainState
from esam_jax.train.telemetry.log import Log
from esam_jax.typing import Params

# What a job may take beyond `guard.hang_seconds`. A save first waits for the one before it, which
# the manager gives ten minutes; the first comparison compiles.
_SAVE_SECONDS = 900.0
_COMPARE_SECONDS = 600.0


@dataclasses.dataclass(frozen=True)
class Due:
    """After every so many updates (None: after none), and after the last one, if that is named.

    Before the first one where `start` says so.
    """

    every_steps: int | None
    last_step: int | None = None
    start: bool = False

    def __contains__(self, done: int) -> bool:
        if done == 0:
            return self.start
        often = self.every_steps is not None and done % self.every_steps == 0
        return often or done == self.last_step


@dataclasses.dataclass(frozen=True)
class Shared:
    """What jobs share: where they report, and who must know that they may take long."""

    report: Log
    watchdog: Watchdog
    guarded: GuardConfig

    @contextlib.contextmanager
    def timed(self, event: str, what: str, done: int, seconds: float = math.inf) -> Iterator[None]:
        """Around a job after `done` updates, all of which are read and judged first.

        It may take `seconds` longer than an update.
        """
        guard.judge(self.guarded, self.report.flush(done))
        with self.watchdog.slow(what, seconds), self.report.timed(event, done):
            yield


@dataclasses.dataclass(frozen=True)
class Save:
    """Writes the state, in the background."""

    due: Due
    shared: Shared
    checkpoints: Checkpoints

    def after(self, done: int, state: TrainState, *, now: bool = False) -> None:
        """Begins to write if it is due, or must be `now`."""
        if now or done in self.due:
            with self.shared.timed("save", "a save", done, _SAVE_SECONDS):
                self.checkpoints.save(done, state)

    def news(self) -> list[dict[str, Any]]:
        """What has become of earlier saves; raises where one has failed."""
        return self.checkpoints.check()

    def wait(self) -> None:
        """Returns once the last one is on the disk."""
        with self.shared.watchdog.slow("the last save", _SAVE_SECONDS):
            self.checkpoints.wait()


@dataclasses.dataclass(frozen=True)
class Patience:
    """How many evaluations in a row may be no better by a metric before a run ends."""

    metric: str
    evaluations: int

    @classmethod
    def of(cls, cfg: RunConfig) -> "Patience | None":
        """That of a run; None for one that trains to its end."""
        if cfg.evaluate is None or cfg.evaluate.patience is None or cfg.save.best is None:
            return None
        return cls(cfg.save.best, cfg.evaluate.patience)

    def exhausted_at(self, measured: Mapping[int, Mapping[str, Any]]) -> int | None:
        """After which of the evaluations, by step, the run ends."""
        return early_stop.exhausted_at(measured, self.metric, self.evaluations)


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measures the models in training; the values also score the checkpoint of that step."""

    due: Due
    shared: Shared
    checkpoints: Checkpoints
    measure: Measure | None
    frozen: Params
    patience: Patience | None = None

    def after(self, done: int, state: TrainState) -> None:
        """Measures if it is due, unless an earlier part of the run has done so."""
        if self.measure is None or done not in self.due or done in self.shared.report.measured:
            return
        with self.shared.timed("evaluate", "an evaluation", done), jax.transfer_guard("allow"):
            measured = self.measure(state.result, self.frozen)
            self.shared.report.evaluation(done, measured)
            self.checkpoints.score(done, measured)

    def exhausted(self) -> bool:
        """Whether evaluations no longer improve, and the run ends."""
        if self.patience is None:
            return False
        return self.patience.exhausted_at(self.shared.report.measured) is not None


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compares the copies of every array that several devices hold."""

    due: Due
    watchdog: Watchdog
    copies: Replicas
    frozen: Params

    def after(self, done: int, state: TrainState) -> None:
        if done in self.due:
            with self.watchdog.slow("the comparison of copies", _COMPARE_SECONDS):
                self.copies.compare(done, copied(state, self.frozen))


@dataclasses.dataclass(frozen=True)
class Jobs:
    """Those of a run. The log and the tracer know by themselves when they are due."""

    compare: Compare
    save: Save
    evaluate: Evaluate


def copied(state: TrainState, frozen: Params) -> dict[str, Params]:
    """What several devices hold copies of."""
    held = {"params": state.params, "opt_state": state.opt_state, "frozen": frozen}
    return held if state.averages is None else {**held, "averages": state.averages}
