"""What was measured of objects, averaged: by prompt, by size, over seeds, over data sets.

Sums are exact (`math.fsum`), so that no order of pictures changes the last bit.
"""

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from esam_jax.evaluate.prompts import Found
from esam_jax.evaluate.protocol import SIZES, Protocol, size_of

MASKS = ("confident", "oracle")  # which of the candidates


def content(found: Found) -> dict[str, Any]:
    """What is kept of a picture, as JSON has it: its objects, and what is known of it."""
    targets = () if found.scene is None else found.scene.targets
    objects = [
        {
            "id": target.about.identity,
            "area": target.mask.area(),
            "fill_box": target.fill,
            "ious": {
                column: [[answer.iou, answer.oracle] for answer in runs]
                for column, runs in scores.items()
            },
        }
        for target, scores in zip(targets, found.scores, strict=True)
    ]
    noted = [[each.kind, each.text, each.count] for each in found.findings]
    return {"name": found.name, "objects": objects, "findings": noted, "broken": found.broken}


def table(data: Mapping[str, Sequence[Mapping[str, Any]]], protocol: Protocol) -> list[dict]:
    """A row for each prompt, mask and size: mIoU of the objects of each data set, and over all.

    `miou` is the mean over data sets of the mean over objects, `per_mask` the mean over all
    objects, `data` the mean of each data set, `masks` how many objects there are. Where the clicks
    are drawn, these are means over seeds, and `by_seed` has the `miou` of each, with their `std`
    (of a sample), `min` and `max`. A row of no object is left out.
    """
    rows = []
    for column in protocol.columns:
        for which, mask in enumerate(MASKS):
            for size in SIZES:
                each = {name: _of_size(objects, size) for name, objects in data.items()}
                each = {name: objects for name, objects in each.items() if objects}
                if each:
                    runs = range(protocol.runs(column))
                    rows.append(_row(column, mask, size, each, which, runs))
    return rows


def miou(
    rows: Sequence[Mapping[str, Any]],
    prompt: str,
    points: int = 0,
    *,
    mask: str = "confident",
    size: str = "all",
) -> float:
    """One number of a `table`; NaN where there is no such row."""
    wanted = {"prompt": prompt, "points": points, "mask": mask, "size": size}
    found = (row["miou"] for row in rows if wanted.items() <= row.items())
    return next(found, math.nan)


def _row(
    column: str,
    mask: str,
    size: str,
    data: Mapping[str, Sequence[Mapping[str, Any]]],
    which: int,
    runs: range,
) -> dict[str, Any]:
    way, _, count = column.rpartition("_")
    ious = {
        name: [[each["ious"][column][run][which] for each in objects] for run in runs]
        for name, objects in data.items()
    }
    by_seed = [mean(mean(of_data[run]) for of_data in ious.values()) for run in runs]
    pooled = [mean(x for of_data in ious.values() for x in of_data[run]) for run in runs]
    row = {
        "prompt": way or column,
        "points": int(count) if way else 0,
        "mask": mask,
        "size": size,
        "masks": sum(map(len, data.values())),
        "miou": mean(by_seed),
        "per_mask": mean(pooled),
        "data": {name: mean(map(mean, of_data)) for name, of_data in ious.items()},
    }
    if len(by_seed) > 1:
        band = {"std": statistics.stdev(by_seed), "min": min(by_seed), "max": max(by_seed)}
        row |= {"by_seed": by_seed, **band}
    return row


def mean(values: Iterable[float]) -> float:
    """The same in any order."""
    values = list(values)
    return math.fsum(values) / len(values)


def _of_size(objects: Sequence[Mapping[str, Any]], size: str) -> list[Mapping[str, Any]]:
    return [each for each in objects if size in ("all", size_of(each["area"]))]


def as_csv(data: Mapping[str, Iterable[Mapping[str, Any]]], protocol: Protocol) -> str:
    """A line for each object: data, picture, object, area, size, fill_box, IoU of each prompt.

    A prompt with drawn clicks has a column for each seed, `uniform_3:seed1`; the best candidate
    stands beside the most confident one, `box:oracle`. `data` are the contents of the pictures.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [
        (column, run, which)
        for column in protocol.columns
        for run in range(protocol.runs(column))
        for which in range(len(MASKS))
    ]
    heads = [_head(column, run, which, protocol) for column, run, which in names]
    writer.writerow(["data", "picture", "object", "area", "size", "fill_box", *heads])
    for name, pictures in data.items():
        for picture in pictures:
            for each in picture["objects"]:
                ious = [each["ious"][column][run][which] for column, run, which in names]
                about = [each["id"], each["area"], size_of(each["area"]), each["fill_box"]]
                writer.writerow([name, picture["name"], *about, *ious])
    return text.getvalue()


def pictures_as_csv(data: Mapping[str, Iterable[Mapping[str, Any]]], protocol: Protocol) -> str:
    """A line for each picture, the worst first: data, picture, objects, mean IoU, that of each
    prompt.

    Over objects and seeds, of the most confident candidate; `left_out` says why one was not
    measured.
    """
    rows: list[tuple[Any, ...]] = []
    for name, pictures in data.items():
        for picture in pictures:
            objects = picture["objects"]
            means = [
                mean(run[0] for each in objects for run in each["ious"][column]) if objects else ""
                for column in protocol.columns
            ]
            overall = mean(confident(picture)) if objects else ""
            about = (name, picture["name"], len(objects), overall, *means)
            rows.append((*about, picture["broken"] or ""))
    rows.sort(key=lambda row: (row[2] == 0, row[3], row[:2]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["data", "picture", "objects", "mean", *protocol.columns, "left_out"])
    writer.writerows(rows)
    return text.getvalue()


def confident(picture: Mapping[str, Any]) -> list[float]:
    """The IoU of the most confident candidate for each object, prompt and seed of a `content`."""
    return [run[0] for each in picture["objects"] for runs in each["ious"].values() for run in runs]


def _head(column: str, run: int, which: int, protocol: Protocol) -> str:
    seed = f":seed{protocol.seeds[run]}" if protocol.runs(column) > 1 else ""
    return f"{column}{seed}{':oracle' if which else ''}"
