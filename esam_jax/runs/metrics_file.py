"""metrics.jsonl: one JSON object per line, always with `step`; an event also has `event`.

A resumed run repeats some updates. Their old lines are removed, so that a metric has one value per
step, and replaced by a `redone` event, so that their time is still counted. Events are kept.
"""

import json
import math
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from esam_jax import files

METRICS_FILE = "metrics.jsonl"
# The loss of a model that learned nothing from its input, where a task knows it.
BASELINE, BASELINE_NAME = "baseline_loss", "predicting the mean"

EARLY_STOP = "early_stop"  # event: evaluations have not improved for so long
EARLIER_MODEL = "earlier_model"  # event: model/ is not of the last update
ATTEMPT = "attempt"  # event: a process begins to start; its "start" follows with its first line

Line = dict[str, Any]


class MetricsFile:
    """The file of a run, for appending; a full disk costs lines and a warning, not the run."""

    def __init__(self, file: Path, last_step: int) -> None:
        """Continues after the lines of updates up to `last_step`.

        Temporary files that a killed process left beside it are removed.
        """
        self._file, self._lost = file, 0
        files.remove_unfinished(file.parent)
        self.rewind(last_step)

    def rewind(self, last_step: int) -> None:
        """Removes the metrics of later updates, which will be repeated."""
        self.lines = folded(read(self._file), last_step)
        files.write(self._file, "".join(json.dumps(line) + "\n" for line in self.lines))
        self._torn = False

    def write(self, line: Mapping[str, Any]) -> None:
        """Appends a line; a reader sees all of it or none."""
        # JSON has no NaN or infinity: they become null.
        infinite = {k for k, x in line.items() if isinstance(x, float) and not math.isfinite(x)}
        finite = {**line, **dict.fromkeys(infinite)}
        text = ("\n" if self._torn else "") + json.dumps(finite) + "\n"
        try:
            with self._file.open("ab", buffering=0) as out:
                self._torn = out.write(text.encode()) != len(text)
            self._lost = 0
        except OSError as error:
            self._torn, self._lost = True, self._lost + 1
            if self._lost == 1:  # of a disk that stays full, every line would say so
                warnings.warn(
                    f"{self._file} cannot be written ({error.strerror}), and lines are lost until "
                    "it can; training continues: make room",
                    stacklevel=2,
                )


def read(file: Path) -> list[Line]:
    """Every complete line of a metrics file; [] without a file."""
    if not file.exists():
        return []
    lines = []
    for text in file.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # a killed run may leave half a line
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def append_attempt(file: Path, step: int, **values: Any) -> None:
    """Adds the event, behind what a killed process may have left of a line; OSError as the disk's.

    Nothing else is changed: which lines are to be repeated is not certain yet.
    """
    with file.open("ab+") as out:
        end = out.seek(0, os.SEEK_END)
        if end:
            out.seek(end - 1)
        torn = bool(end) and out.read(1) != b"\n"
        line = {"step": step, "event": ATTEMPT, **values}
        out.write((b"\n" if torn else b"") + json.dumps(line).encode() + b"\n")


def merged(file: Path) -> Line:
    """The last value of every metric in a file."""
    return latest(read(file))


def latest(lines: Iterable[Line]) -> Line:
    """The last value of every metric, without events."""
    result: Line = {}
    for line in lines:
        if "event" not in line:
            result |= line
    return result


def finished_at(file: Path) -> int | None:
    """The number of updates after which the run was finished last; it may go on from there."""
    steps = [line["step"] for line in read(file) if line.get("finished")]
    return max(steps, default=None)


def why_earlier(best: int, metric: str | None) -> str:
    """Of which step `model/` is, in words, where a run has kept the best by a metric."""
    if best == 0:
        return (
            f"no evaluation was better than the start by {metric}: model/ is the model that the "
            "run started from"
        )
    return f"model/ is of step {best}, whose {metric} is best"


def measured(lines: Iterable[Line]) -> dict[int, Line]:
    """What evaluations found, by the number of updates before them."""
    none = {"loss", "event", "finished"}
    return {line["step"]: line for line in lines if not none & line.keys()}


def folded(lines: Iterable[Line], last_step: int) -> list[Line]:
    """The lines without the metrics of later steps, which one `redone` event per part replaces.

    At 0 the run starts again, and what the start measured is dropped too.
    """
    kept: list[Line] = []
    redone: Line | None = None
    part = Part()
    for line in lines:
        if line.get("event") == "start":
            kept, redone = kept + ([redone] if redone else []), None
        took, first = part.add(line)
        if "event" in line or line["step"] <= last_step:
            if "event" in line or last_step > 0:
                kept.append(line)
            continue
        redone = redone or _redone(last_step)
        if "loss" in line:
            lost = line["step"] - max(first, last_step)
            share = lost / max(1, line["step"] - first)
            redone["steps"] += lost
            redone["took"] += took * share
            redone["useful"] += took * (1 - share)  # of a line that began before `last_step`
        redone["seconds"] = line.get("seconds", 0.0)
    return kept + ([redone] if redone else [])


def _redone(last_step: int) -> Line:
    return {"step": last_step, "event": "redone", "steps": 0, "took": 0.0, "useful": 0.0}


class Part:
    """Reads the lines of a run in order and computes how long the steps of each took."""

    def __init__(self) -> None:
        self._step = self._batch = 0

    def add(self, line: Line) -> tuple[float, int]:
        """Seconds of the steps that this line covers, and the step before the first of them.

        Without saves, evaluations and compilation, and without the first update of a part, which
        cannot be separated from compilation.
        """
        before = self._step
        if line.get("event") == "start":
            self._batch = line.get("batch", 0)
        if "loss" in line or line.get("event") in ("start", "redone"):
            self._step = line["step"]
        rate = line.get("examples_per_second")
        if "event" in line or "loss" not in line or not rate:
            return 0.0, before
        return (line["step"] - before) * self._batch / rate, before
