"""Numbers out, late: metrics.jsonl, a progress bar on stderr, and a picture of the loss.

Metrics stay on the device until the next line is due, so that asking for them never makes it wait.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from tqdm import tqdm

from esam_jax.config import RunConfig
from esam_jax.train import guard

METRICS_FILE = "metrics.jsonl"


class Log:
    """What a run says while it lasts. `step` is always the number of updates done."""

    def __init__(
        self,
        cfg: RunConfig,
        workdir: Path,
        first_step: int,
        broken: Callable[[], Mapping[str, str]],
        *,
        progress: bool | None = None,
    ) -> None:
        """Goes on with the file of an earlier part of the run, less what will be done anew.

        `broken` gives the unusable records so far; `progress` forces the bar on or off.
        """
        self._cfg, self._workdir, self._first_step, self._progress = (
            cfg,
            workdir,
            first_step,
            progress,
        )
        self._broken, self._told = broken, 0
        self._waiting: list[tuple[int, Any]] = []
        self._begin = time.monotonic()
        self._mark: tuple[int, float] | None = None  # (step, time) from which the rate is taken
        self._compiled: float | None = None
        # Every host computes the same numbers; one of them writes.
        main, file = jax.process_index() == 0, workdir / METRICS_FILE
        lines = _truncate(file, first_step) if main else _until(file, first_step)
        # Of every host, or they would disagree on what to measure after a resume.
        self.evaluated = {line["step"] for line in lines if not {"loss", "event"} & line.keys()}
        self._events = [line for line in lines if "event" in line]
        self._file = (file if main else Path(os.devnull)).open("a")
        self._bar = tqdm(
            total=cfg.steps,
            initial=first_step,
            unit="step",
            desc=cfg.name,
            disable=not (main and talks(progress)),
            dynamic_ncols=True,
        )

    def __enter__(self) -> "Log":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._bar.close()
        self._file.close()

    def after(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Takes the metrics of update `step`; when a line is due, writes the one before it.

        TrainingError or guard.RollBack where the numbers say that the run must not go on.
        """
        self._bar.update(1)
        self._waiting.append((step, metrics))
        if self._mark is None:  # the first update: its dispatch compiled, so the rate starts here
            self._compiled = time.monotonic()
            self._mark = (step, self._compiled)
        if step % self._cfg.log_every_steps == 0:
            self._drain(step, step - self._cfg.log_every_steps)

    def flush(self, step: int) -> None:
        """Waits for the device; afterwards every update up to `step` has passed the guard."""
        self._drain(step, step)

    def restart_clock(self, step: int) -> None:
        """Leaves the time of an evaluation or a save out of examples_per_second."""
        self._mark = (step, time.monotonic())

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl."""
        line = {"step": step, **values, "seconds": round(time.monotonic() - self._begin, 3)}
        # JSON has no word for NaN and infinity.
        odd = {name for name, x in line.items() if isinstance(x, float) and not math.isfinite(x)}
        self._file.write(json.dumps(line | dict.fromkeys(odd)) + "\n")
        self._file.flush()

    def event(self, step: int, values: Mapping[str, Any]) -> None:
        """One line about what happened; none if a run that resumed before it comes by again."""
        told = [{name: line.get(name) for name in values} for line in self._events]
        if dict(values) not in told:
            self.write(step, values)

    def finish(self) -> None:
        """The last line of a run that is done; its mean rate leaves out only compilation."""
        summary: dict[str, Any] = {"finished": True, **self._news_of_broken()}
        if self._compiled is not None:
            examples = (self._cfg.steps - self._first_step - 1) * self._cfg.batch
            rate = examples / (time.monotonic() - self._compiled)
            compile_seconds = self._compiled - self._begin
            summary |= {"compile_seconds": round(compile_seconds, 3)}
            summary |= {"mean_examples_per_second": round(rate, 3)}
        self.write(self._cfg.steps, summary)
        listed = ", ".join(f"{name} {value}" for name, value in summary.items())
        seconds = time.monotonic() - self._begin
        say(f"{self._workdir}: {self._cfg.steps} steps, {seconds:.1f} s, {listed}", self._progress)

    def _drain(self, step: int, last: int) -> None:
        """Checks the updates up to `last` and writes the lines among them; `step` is dispatched."""
        due = [entry for entry in self._waiting if entry[0] <= last]
        self._waiting = self._waiting[len(due) :]
        fetched = jax.device_get([metrics for _, metrics in due])
        rate = self._rate(step)
        for (done, _), metrics in zip(due, fetched):
            values = {name: float(value) for name, value in metrics.items()}
            if self._is_due(done) or values["skipped"]:
                # The first update waited for the compiler: its line has no rate.
                shared = {} if done == self._first_step + 1 else rate
                self.write(done, values | shared | self._news_of_broken())
                shown = {"loss": values["loss"], "examples/s": rate.get("examples_per_second", 0)}
                self._bar.set_postfix({name: f"{value:.4g}" for name, value in shown.items()})
            guard.after(self._cfg.guard, done, values)

    def _is_due(self, done: int) -> bool:
        """Whether an update gets a line: the first and the last always, so that short runs talk."""
        edges = (self._first_step + 1, self._cfg.steps)
        return done % self._cfg.log_every_steps == 0 or done in edges

    def _rate(self, step: int) -> dict[str, float]:
        """Examples per second since this was last asked; the device is at most a line behind."""
        now, (marked_step, marked_time) = time.monotonic(), self._mark or (step, 0.0)
        self._mark = (step, now)
        if step == marked_step:
            return {}
        rate = (step - marked_step) * self._cfg.batch / (now - marked_time)
        return {"examples_per_second": round(rate, 3)}

    def _news_of_broken(self) -> dict[str, Any]:
        """How many records could not be used, and which are new, whenever the number changes."""
        names = list(self._broken())
        new, self._told = names[self._told :], len(names)
        return {"broken": len(names), "broken_names": new} if new else {}


def talks(progress: bool | None) -> bool:
    """Whether to write for people: as asked, else when stderr is a terminal."""
    return sys.stderr.isatty() if progress is None else progress


def say(text: str, progress: bool | None) -> None:
    """One line for people on stderr."""
    if jax.process_index() == 0 and talks(progress):
        tqdm.write(text, file=sys.stderr)


def read(file: Path) -> list[dict[str, Any]]:
    """Every whole line of a metrics file; [] where there is none."""
    if not file.exists():
        return []
    lines = []
    for text in file.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:  # a killed run may leave half a line, which is never read as whole
            continue
    return lines


def _truncate(file: Path, last_step: int) -> list[dict[str, Any]]:
    """Drops lines about updates after `last_step`, which a resumed run does anew; the others."""
    kept = _until(file, last_step)
    fresh = file.with_name(f".{file.name}.{os.getpid()}.new")
    fresh.write_text("".join(json.dumps(line) + "\n" for line in kept))
    fresh.replace(file)
    return kept


def _until(file: Path, last_step: int) -> list[dict[str, Any]]:
    return [line for line in read(file) if line["step"] <= last_step]


def merged(file: Path) -> dict[str, Any]:
    """The last value of every metric in a file."""
    result: dict[str, Any] = {}
    for line in read(file):
        result |= {} if "event" in line else line
    return result
