"""The state and history of a run, from its folder alone: running, killed or finished."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from esam_jax.data import findings
from esam_jax.errors import MissingError
from esam_jax.report import charts
from esam_jax.report.charts import Series
from esam_jax.runs import metrics_file
from esam_jax.runs.config_file import CONFIG_FILE
from esam_jax.runs.goodput import Ledger
from esam_jax.runs.metrics_file import METRICS_FILE, Line

_ROUTINE = (
    *(metrics_file.ATTEMPT, "start", "preflight", "compile", "save", "evaluate"),
    *(metrics_file.EARLY_STOP, metrics_file.EARLIER_MODEL),
)
_NEVER_SHOWN = ("step", "event", "seconds", "time")
_FIRST = 5  # of what is wrong with the data, quoted for each kind
_ENVIRONMENT = ("versions", "host", "processes", "devices", "device_kind", "platform", "mesh")


def summary(run: Path) -> dict[str, Any]:
    """All text and numbers of the page; MissingError when the folder holds no run."""
    lines, config = _lines(run), _config(run)
    ledger, last = Ledger(lines), metrics_file.latest(lines)
    starts = [line for line in lines if line.get("event") == "start"]
    # A run that stops early may have no line of its last update.
    done = max((line["step"] for line in lines if {"loss", "finished"} & line.keys()), default=0)
    # A run may have been lengthened since it was finished.
    steps = config.get("steps", last.get("step"))
    end = _end(lines, done)
    return {
        "run": str(run),
        "name": config.get("name", run.name),
        "step": done,
        "steps": steps,
        "finished": any(line.get("finished") and line["step"] == steps for line in lines),
        "stopped_early": metrics_file.EARLY_STOP in end,
        "model": end.get(metrics_file.EARLIER_MODEL, {}).get("why", ""),
        "ema": config.get("optim", {}).get("ema"),
        "restarts": sum(_is_restart(lines)),
        "seconds": round(ledger.seconds(), 3),
        "goodput": round(ledger.goodput(), 4),
        "spent": {name: round(value, 3) for name, value in ledger.spent().items()},
        "faults": faults(lines),
        "metrics": last,
        "measured": _measured(lines),
        "environment": _environment(starts),
        "config": config,
    }


def _end(lines: Sequence[Line], step: int) -> dict[str, Line]:
    """The events at the end of a run that is done, after `step` updates, by their names."""
    there = [line for line in lines if line["step"] == step]
    if not any(line.get("finished") for line in there):
        return {}
    return {line["event"]: line for line in there if "event" in line}


def _measured(lines: Sequence[Line]) -> list[str]:
    """Names of the numbers that evaluations reported, whatever the task measures."""
    evaluations = [x for x in lines if not {"loss", "event", "finished"} & x.keys()]
    names = dict.fromkeys(name for line in evaluations for name in line)
    numbers = [x for x in names if any(isinstance(line.get(x), float) for line in evaluations)]
    return [name for name in numbers if name != "seconds"]


def faults(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """What was not routine, in order: restarts, broken records and all other events.

    `at` is seconds since the epoch, or None when unknown. What is wrong with the data is one row
    for each kind of it in a part of the run: how many there were, and the first of them. What was
    left out or used by choice is no fault.
    """
    found: list[dict[str, Any]] = []
    began, of_data = None, {}
    for line, restart in zip(lines, _is_restart(lines), strict=True):
        event = line.get("event")
        if event == "start":
            began, of_data = line.get("time"), {}  # a part counts from its own start
        at = None if began is None else round(began + line.get("seconds", 0.0), 3)
        if event == metrics_file.ATTEMPT:
            at = line.get("time")
        row = {"step": line["step"], "at": at}
        if restart:
            what = {name: line[name] for name in ("host",) if name in line}
            found.append({**row, "event": "restart", **what})
        elif event is not None and event not in _ROUTINE:
            what = {name: value for name, value in line.items() if name not in _NEVER_SHOWN}
            found.append({**row, "event": event, **what})
        for kind, count, texts in _of_data(line):
            if kind not in of_data:
                of_data[kind] = {**row, "event": kind, "count": count, "first": []}
                found.append(of_data[kind])
            of_data[kind]["count"] = count
            of_data[kind]["first"] += texts[: _FIRST - len(of_data[kind]["first"])]
    return found


def _of_data(line: Line) -> Iterator[tuple[str, int, list[str]]]:
    """Of each kind of what is wrong with the data: how many so far, and new ones in words."""
    if "event" in line:
        return
    if "broken" in line:
        names, reasons = (line.get(f"broken_{name}", []) for name in ("names", "reasons"))
        both = itertools.zip_longest(names, reasons)
        texts = [name if reason is None else f"{name}: {reason}" for name, reason in both]
        yield "broken records", line["broken"], texts
    reasons = line.get("left_out_reasons")
    for kind in findings.KINDS:
        if kind in line and kind not in findings.BY_CHOICE:
            texts = reasons.get(kind, []) if isinstance(reasons, Mapping) else []
            yield kind.replace("_", " "), line[kind], texts


def _is_restart(lines: Sequence[Line]) -> list[bool]:
    """For each line, whether the run was started again there because it had ended before its time.

    Every attempt to start counts, also one that was killed before its `start`. Going back from a
    spike starts a part of the run in the same process, and a finished run that was lengthened had
    not ended before its time.
    """
    found, parts, announced, finished = [], 0, False, False
    for number, line in enumerate(lines):
        event = line.get("event")
        begins = event == metrics_file.ATTEMPT
        if event == "start":  # earlier releases wrote no attempts
            begins, announced = not announced and not _goes_back(lines, number + 1), False
        elif begins:
            announced = True
        found.append(begins and parts > 0 and not finished)
        parts, finished = parts + begins, (finished and not begins) or bool(line.get("finished"))
    return found


def _goes_back(lines: Sequence[Line], number: int) -> bool:
    """Whether the next event from there on, of those that may follow a start, is a rollback."""
    for line in itertools.islice(lines, number, None):
        if line.get("event") not in (None, "config_change", "preflight"):
            return line["event"] == "rollback"
    return False


def curves(run: Path) -> dict[str, list[Series]]:
    """Chart title -> its curves, for every chart that has data."""
    lines = [line for line in _lines(run) if "event" not in line]
    updates = [line for line in lines if "loss" in line]
    found = {
        "Loss": _losses(updates),
        "Gradient norm": _series(updates, lambda name: name.startswith("grad_norm")),
        "Learning rate": _series(updates, lambda name: name == "learning_rate"),
        "Examples per second": _series(updates, lambda name: name == "examples_per_second"),
        "Share of a step's time": _shares(updates),
        "MFU": _series(updates, lambda name: name == "mfu"),
        "Goodput": _series(updates, lambda name: name == "goodput"),
        "Memory, GB": _memory(updates),
    }
    measured = [line for line in lines if "loss" not in line and "finished" not in line]
    quality = _series(measured, lambda name: "iou" in name)
    return {title: series for title, series in ({"Evaluation": quality} | found).items() if series}


def _series(lines: Sequence[Line], wanted: Any, scale: float = 1.0) -> list[Series]:
    names = dict.fromkeys(name for line in lines for name in line if wanted(name))
    curves = {
        name: [
            (line["step"], line[name] * scale)
            for line in lines
            if isinstance(line.get(name), int | float)
        ]
        for name in names
    }
    return [Series(name, points) for name, points in curves.items() if points]


def _losses(lines: Sequence[Line]) -> list[Series]:
    losses = _series(lines, lambda name: name == "loss" or name.startswith("loss/"))
    baseline = _series(lines, lambda name: name == metrics_file.BASELINE)
    return losses + [
        level
        for each in baseline
        for level in charts.level(metrics_file.BASELINE_NAME, each.points)
    ]


def _shares(lines: Sequence[Line]) -> list[Series]:
    named = _series(lines, lambda name: name.endswith("_share"))
    return [
        Series(each.name.removesuffix("_share").replace("_", " "), each.points) for each in named
    ]


def _memory(lines: Sequence[Line]) -> list[Series]:
    named = _series(lines, lambda name: name in ("host_bytes", "device_bytes"), 1e-9)
    return [Series(each.name.removesuffix("_bytes"), each.points) for each in named]


def _lines(run: Path) -> list[Line]:
    lines = metrics_file.read(run / METRICS_FILE)
    if not lines:
        raise MissingError(f"{run} holds no run with a {METRICS_FILE}: name the --workdir of a run")
    return lines


def _config(run: Path) -> dict[str, Any]:
    """The stored config; {} when it is damaged, which a report must survive."""
    try:
        found = json.loads((run / CONFIG_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _environment(starts: Sequence[Line]) -> dict[str, Any]:
    """Of the last part of the run."""
    return {name: starts[-1][name] for name in _ENVIRONMENT if starts and name in starts[-1]}
