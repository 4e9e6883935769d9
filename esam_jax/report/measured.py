"""Charts of an evaluation: mIoU over the number of clicks, and how IoU is spread over objects."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from esam_jax import files
from esam_jax.report import charts
from esam_jax.report.charts import Series

CLICKS_FILE, SPREAD_FILE = "clicks.svg", "ious.svg"
_ABOUT = ("data", "picture", "object", "category", "area", "size", "fill_box", "score")
_LEVELS = 50


def write(out: Path, numbers: Sequence[Mapping[str, Any]], objects: Path) -> None:
    """Writes `clicks.svg` and `ious.svg`, as far as there is something to draw.

    `numbers` as `esam evaluate prompts` gives them, and the csv of `objects` as `prompts` and
    `instances` do.
    """
    for name, text in ((CLICKS_FILE, _over_clicks(numbers)), (SPREAD_FILE, _spread(objects))):
        if text:
            files.write(out / name, text)


def _over_clicks(numbers: Sequence[Mapping[str, Any]]) -> str:
    """Each way of clicking, and the box; "" for one number of clicks.

    Over all sizes, of the most confident mask; with the oracle where there is one way.
    """
    curves: dict[tuple[str, bool], list[tuple[int, float]]] = {}
    box = None
    for row in numbers:
        if row["size"] == "all" and row["points"]:
            key = (row["prompt"].replace("_", " "), row["mask"] == "oracle")
            curves.setdefault(key, []).append((row["points"], row["miou"]))
        elif row["size"] == "all" and row["mask"] != "oracle":
            box = row["miou"]
    curves = {key: points for key, points in curves.items() if len(points) > 1}
    ways = {way for way, _ in curves}
    series = [
        Series(f"{way}, oracle" if oracle else way, points)
        for (way, oracle), points in curves.items()
        if not oracle or len(ways) == 1
    ]
    if not series:
        return ""
    if box is not None:
        counts = [x for each in series for x, _ in each.points]
        series.append(Series("box", [(min(counts), box), (max(counts), box)], reference=True))
    return charts.document("mIoU", series, below="clicks")


def _spread(objects: Path) -> str:
    """For the first, the middle and the last prompt, the share of objects that reach an IoU."""
    with objects.open(newline="") as file:
        rows = list(csv.DictReader(file))
    heads = [name for name in (rows[0] if rows else ()) if name not in _ABOUT]
    firsts: dict[str, str] = {}  # the first seed of each prompt
    for name in heads:
        if not name.endswith(":oracle"):
            firsts.setdefault(name.split(":")[0], name)
    names = list(firsts)
    shown = dict.fromkeys(names[i] for i in (0, len(names) // 2, -1)) if names else {}
    series = []
    for name in shown:
        ious = [float(row[firsts[name]]) for row in rows]
        levels = [i / _LEVELS for i in range(_LEVELS + 1)]
        shares = [sum(iou >= level for iou in ious) / len(ious) for level in levels]
        series.append(Series(name.replace("_", " "), list(zip(levels, shares, strict=True))))
    return charts.document("share of objects that reach an IoU", series, below="IoU")
