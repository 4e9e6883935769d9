"""Boxes of a detector, from a results file of COCO: [{image_id, category_id, bbox, score}, ...].

Files are hostile until parsed: an entry that does not read, or belongs to nothing that the truth
lists, is left out and noted with its place in the file.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esam_jax.data.findings import Finding
from esam_jax.errors import DataError
from esam_jax.evaluate import results
from esam_jax.evaluate.ground_truth import Id, Truth


@dataclasses.dataclass(frozen=True)
class Detection:
    """A box (x, y, width, height) in pixels of its picture, as the file has it.

    `corners` are (x0, y0, x1, y1), clipped to the picture.
    """

    place: int
    category: int
    score: float
    box: tuple[float, float, float, float]
    corners: tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Detections:
    """Those of each picture, in the order of the file."""

    of: Mapping[Id, list[Detection]]
    findings: list[Finding]
    digest: str


def read(path: Path, truth: Truth) -> Detections:
    """The results for pictures of `truth`; DataError where there is none at all."""
    form = "give a list of {image_id, category_id, bbox, score}, as COCO has results"
    entries, digest = results.listed(path, form)
    categories = {each["id"] for each in truth.dataset["categories"]}
    found: dict[Id, list[Detection]] = {}
    findings: list[Finding] = []
    for place, entry in enumerate(entries):
        try:
            owner, detection = _detection(entry, place, truth, categories)
            found.setdefault(owner, []).append(detection)
        except DataError as error:
            findings.append(Finding("detections_left_out", f"{path.name}: entry {place}: {error}"))
    if not found:
        first = f"; {findings[0].text}" if findings else ""
        raise DataError(f"{path} has no box for a picture of {truth.file}: {form}{first}")
    return Detections(found, findings, digest)


def _detection(entry: Any, place: int, truth: Truth, categories: set[int]) -> tuple[Id, Detection]:
    about, picture = results.owner(entry, truth, categories)
    x, y, width, height = results.box(entry)
    if width == 0 or height == 0:
        raise DataError(f"its bbox is {width:g} wide and {height:g} high: it has no inside")
    right, below = min(x + width, 1.0 * picture.width), min(y + height, 1.0 * picture.height)
    corners = (max(x, 0.0), max(y, 0.0), right, below)
    if corners[2] <= corners[0] or corners[3] <= corners[1]:
        raise DataError(
            f"its bbox is {[x, y, width, height]}, outside the picture of {picture.width} x "
            f"{picture.height}"
        )
    detection = Detection(
        place, about["category_id"], about["score"], (x, y, width, height), corners
    )
    return entry["image_id"], detection
