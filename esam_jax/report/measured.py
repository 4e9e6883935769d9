"""Charts of an evaluation: mIoU over the number of clicks, and how IoU is spread over objects."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from esam_jax import files
from esam_jax.report import charts
from esam_jax.report.charts import Series

CLICKS_FILE, SPREAD_FILE = "clicks.svg", "ious.svg"
_ABOUT = ("data", "picture", "object", "area", "size", "fill_box")
_LEVELS = 50
_MOST = 6  # curves that a legend has room for


def write(out: Path, numbers: Sequence[Mapping[str, Any]], objects: Path) -> None:
    """Writes `clicks.svg` and `ious.svg`, as far as there is something to draw.

    `numbers` and the csv of `objects` as `esam evaluate prompts` gives them.
    """
    for name, text in ((CLICKS_FILE, _over_clicks(numbers)), (SPREAD_FILE, _spread(objects))):
        if text:
            files.write(out / name, text)


def _over_clicks(numbers: Sequence[Mapping[str, Any]]) -> str:
    """The most confident mask and the oracle, over all sizes; "" for one number of clicks."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in numbers:
        if row["points"] and row["size"] == "all":
            oracle = ", oracle" if row["mask"] == "oracle" else ""
            name = f"{row['prompt'].replace('_', ' ')}{oracle}"
            curves.setdefault(name, []).append((row["points"], row["miou"]))
    series = [Series(name, points) for name, points in curves.items() if len(points) > 1]
    if not series:
        return ""
    boxes = [
        row
        for row in numbers
        if not row["points"] and row["size"] == "all" and row["mask"] != "oracle"
    ]
    ends = [x for each in series for x, _ in each.points]
    for row in boxes:
        level = [(min(ends), row["miou"]), (max(ends), row["miou"])]
        series.append(Series("box", level, reference=True))
    return charts.document("mIoU", series[: _MOST + 1], below="clicks")


def _spread(objects: Path) -> str:
    """For each prompt, the share of objects that reach an IoU."""
    with objects.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in (rows[0] if rows else ()) if name not in _ABOUT]
    series = []
    for name in [name for name in names if not name.endswith(":oracle")][:_MOST]:
        ious = [float(row[name]) for row in rows]
        levels = [i / _LEVELS for i in range(_LEVELS + 1)]
        shares = [sum(iou >= level for iou in ious) / len(ious) for level in levels]
        series.append(Series(name.replace("_", " "), list(zip(levels, shares, strict=True))))
    return charts.document("share of objects that reach an IoU", series, below="IoU")
