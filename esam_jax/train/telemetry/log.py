"""Numbers out, late: metrics.jsonl, a progress bar on stderr, and trackers beside them.

The numbers of an update are read once the next one was handed to the device: so every one is seen,
and the device never waits for the host.
"""

import collections
import contextlib
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from esam_jax.errors import one_line
from esam_jax.machine import compilation, environment, memory
from esam_jax.processes import alert as alerts
from esam_jax.processes import leader
from esam_jax.runs import metrics_file
from esam_jax.runs.goodput import Ledger
from esam_jax.runs.metrics_file import METRICS_FILE, MetricsFile, merged, read
from esam_jax.tasks.trained import Count
from esam_jax.train import scalars
from esam_jax.train.telemetry.clock import StepClock
from esam_jax.train.telemetry.data_news import DataNews
from esam_jax.train.telemetry.hosts import Hosts
from esam_jax.train.telemetry.trackers import Trackers
from esam_jax.typing import Batch

__all__ = ["METRICS_FILE", "Log", "merged", "note", "read", "say", "talks"]

Values = dict[str, float]


class Log:
    """The record of a run. `step` is always the number of updates done."""

    def __init__(
        self,
        workdir: Path,
        *,
        name: str,
        first_step: int,
        steps: int,
        batch: int,
        every_steps: int,
        mesh: Mesh,
        flops_per_example: int,
        parameters: Count,
        trackers: Trackers,
        data: DataNews,
        records: str | None = None,
        progress: bool | None = None,
        began: float | None = None,
        alert: alerts.Send = alerts.to_nobody,
    ) -> None:
        """Continues the file of an earlier part of the run, less what will be done again.

        `steps` is the last update of the run, `every_steps` how many share a line; `data` reports
        what of the data is unusable; `records` says in words which data there is, and a warning
        reports that an earlier part had other data; `progress` forces the bar on or off; `began` is
        the monotonic time from which this part of the run counts (default: now); `alert` hears of
        hosts that keep the others.
        """
        self._workdir, self._first_step, self._steps = workdir, first_step, steps
        self._batch, self._every_steps, self._progress = batch, every_steps, progress
        self._data, self._records = data, records
        self._waiting: collections.deque[tuple[int, scalars.Metrics]] = collections.deque()
        self._begin = time.monotonic() if began is None else began
        self._first_dispatch: float | None = None
        self._programs = compilation.counts()
        self._compiled: float | None = None
        self._clock, self._hosts, self._alert = StepClock(), Hosts(), alert
        self._mesh, self._trackers = mesh, trackers
        self._flops, self._peak = flops_per_example, environment.peak_flops(mesh)
        self._parameters = parameters
        self._open(first_step)
        self._bar = tqdm(
            total=steps,
            initial=first_step,
            unit="step",
            desc=name,
            disable=not (jax.process_index() == 0 and talks(progress)),
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
        if error is not None:
            self.event("stop", self._last_read, reason=one_line(error).rstrip(": "))
        self._bar.close()
        self._trackers.close()

    def await_batch(self, batches: Iterator[Batch]) -> Batch:
        """The next batch, and the wait for it timed."""
        self._clock.asked(self._busy())
        batch = next(batches)
        self._clock.batch_is_here(self._busy())
        if self._first_dispatch is None:
            self._first_dispatch, self._programs = time.monotonic(), compilation.counts()
        return batch

    def after(self, step: int, metrics: scalars.Metrics) -> list[tuple[int, Values]]:
        """Takes what update `step` gave before it is computed; (step, values) of the one before."""
        self._clock.dispatched()
        if self._compiled is None:  # the first update: its dispatch compiled
            self._note_compilation(step)
        self._bar.update(1)
        self._waiting.append((step, metrics))
        return self._read(step - 1)

    def flush(self, step: int) -> list[tuple[int, Values]]:
        """As `after`, of every update up to `step`, which the device is waited for."""
        return self._read(step)

    @contextlib.contextmanager
    def timed(self, name: str, step: int) -> Iterator[None]:
        """Around what is no update: an event says how long it took, and no rate counts it."""
        begin, programs = time.monotonic(), compilation.counts().programs
        yield
        if compilation.counts().programs > programs:
            memory.give_back()
        self.event(name, step, took=round(time.monotonic() - begin, 6))
        self._clock.restart()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl."""
        line = {"step": step, **values, "seconds": round(time.monotonic() - self._begin, 3)}
        self._ledger.add(line)
        if self._file is not None:
            self._file.write(line)
            if "event" not in line:
                self._trackers.write(step, line)

    def evaluation(self, step: int, values: Mapping[str, Any]) -> None:
        """One line about an evaluation after `step` updates."""
        self.measured[step] = values
        self.write(step, values)

    def event(self, name: str, step: int, **values: Any) -> None:
        """One line about an event; its `took`, if any, is in seconds."""
        self.write(step, {"event": name, **values})

    def events(self, step: int, found: Iterable[Mapping[str, Any]]) -> None:
        """One line for each."""
        for each in found:
            self.write(step, each)

    def finish(self, step: int) -> None:
        """The last line of a run that is done after `step` updates."""
        summary: dict[str, Any] = {"finished": True, **self._data.final()}
        if self._compiled is not None:
            examples = (step - self._first_step - 1) * self._batch
            rate = examples / (time.monotonic() - self._compiled)
            summary |= {"compile_seconds": self._compile_seconds}
            summary |= {"mean_examples_per_second": round(rate, 3)}
        summary |= self._goodput() | self._hosts.last()
        self.write(step, summary)
        hidden = ("finished", *(name for name in summary if name.startswith("host")))
        shown = {name: x for name, x in summary.items() if name not in hidden}
        listed = ", ".join(f"{name} {value}" for name, value in shown.items())
        seconds = time.monotonic() - self._begin
        text = f"{self._workdir}: finished at step {step} after {seconds:.1f} s"
        note(f"{text} ({listed})" if listed else text, self._progress)

    def _open(self, first_step: int) -> None:
        """Every host computes the same numbers; one of them writes."""
        main = jax.process_index() == 0
        self._file = MetricsFile(self._workdir / METRICS_FILE, first_step) if main else None
        self._fold(first_step)
        self._last_read = first_step
        stamp = time.time() - (time.monotonic() - self._begin)  # for people, and for goodput alone
        self.event(
            "start",
            first_step,
            time=round(stamp, 3),
            batch=self._batch,
            flops_per_example=self._flops,
            parameters=self._parameters.all,
            trained_parameters=self._parameters.trained,
            records=self._records,
            **environment.describe(self._mesh),
        )

    def _fold(self, step: int) -> None:
        if self._file is not None:
            self._file.rewind(step)
            lines = self._file.lines
        else:
            lines = metrics_file.folded(read(self._workdir / METRICS_FILE), step)
        # Of process 0, or hosts that see the file late would disagree on what to measure.
        found = leader.decide(lambda: list(metrics_file.measured(lines).items()))
        self.measured: dict[int, Mapping[str, Any]] = dict(found)
        self._ledger = Ledger(lines)
        before = next((x["records"] for x in reversed(lines) if x.get("records")), self._records)
        if before != self._records:
            warnings.warn(
                f"the data of {self._workdir} has changed: {self._records}, but {before} before. "
                "Where there are other records they are shuffled again, and some may come twice in "
                "this epoch",
                UserWarning,
                stacklevel=2,
            )

    def _note_compilation(self, step: int) -> None:
        self._compiled = time.monotonic()
        begin = self._begin if self._first_dispatch is None else self._first_dispatch
        self._compile_seconds = round(self._compiled - begin, 3)
        cache = compilation.counts().since(self._programs)
        self.event("compile", step, took=self._compile_seconds, cache=cache)
        memory.give_back()

    def _busy(self) -> bool:
        """Whether the device still works on the update that it was given last."""
        return bool(self._waiting) and not scalars.ready(self._waiting[-1][1])

    def _read(self, last: int) -> list[tuple[int, Values]]:
        """Fetches the updates up to `last`, checks them, and writes the lines among them."""
        found = []
        while self._waiting and self._waiting[0][0] <= last:
            done, metrics = self._waiting.popleft()
            values = scalars.fetch(metrics)
            self._clock.finished()
            self._last_read = done
            if self._is_due(done) or values["skipped"]:
                self._line(done, values)
            found.append((done, values))
        return found

    def _line(self, done: int, values: Values) -> None:
        span = self._clock.take()
        speed = span.metrics(self._batch)
        if done == self._first_step + 1:
            speed["first_step_seconds"] = round(time.monotonic() - self._begin, 3)
        rate = speed.get("examples_per_second", 0.0)
        if rate:
            speed |= self._share_of_peak(rate)
        hosts = self._hosts.exchange(done, span)
        more = memory.metrics() | self._goodput() | self._data.values()
        self.write(done, values | speed | hosts | more)
        self._name_stragglers(done, hosts)
        shown = {"loss": values["loss"], "examples/s": rate}
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in shown.items()})

    def _name_stragglers(self, done: int, hosts: Mapping[str, Any]) -> None:
        """Each once on the terminal; the lines say it every time."""
        if fresh := self._hosts.news(hosts.get("stragglers", [])):
            self.event("straggler", done, hosts=fresh)
            warnings.warn(f"all hosts wait for {'; '.join(fresh)}", UserWarning, stacklevel=2)
            self._alert("straggler", "; ".join(fresh))

    def _share_of_peak(self, rate: float) -> dict[str, float]:
        done = rate * self._flops
        per_device = {"tflops_per_device": float(f"{done / self._mesh.devices.size / 1e12:.4g}")}
        return per_device | ({} if self._peak is None else {"mfu": round(done / self._peak, 4)})

    def _goodput(self) -> dict[str, float]:
        return {"goodput": round(self._ledger.goodput(), 4)}

    def _is_due(self, done: int) -> bool:
        """Whether an update gets a line: the first and the last always do."""
        edges = (self._first_step + 1, self._steps)
        return done % self._every_steps == 0 or done in edges


def talks(progress: bool | None) -> bool:
    """Whether to write for people: as requested, else when stderr is a terminal."""
    return sys.stderr.isatty() if progress is None else progress


def say(text: str, progress: bool | None) -> None:
    """One line for people on stderr, where `talks`."""
    if talks(progress):
        note(text, progress)


def note(text: str, progress: bool | None) -> None:
    """The same in the log of a job too: unless `progress` is off."""
    if jax.process_index() == 0 and progress is not False:
        tqdm.write(f"esam: {text}", file=sys.stderr)
