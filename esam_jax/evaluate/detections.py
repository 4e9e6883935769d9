"""Boxes of a detector, from a results file of COCO: [{image_id, category_id, bbox, score}, ...].

Files are hostile until parsed: an entry that does not read, or belongs to nothing that the truth
lists, is left out and noted with its place in the file.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esam_jax import files
from esam_jax.data.findings import Finding
from esam_jax.data.mask_sets import is_number
from esam_jax.errors import DataError
from esam_jax.evaluate.ground_truth import Id, Truth

_MAX_BYTES = 2**31


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

    def attempt() -> bytes:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path} has more than {_MAX_BYTES} bytes: split it")
        return path.read_bytes()

    data = files.read(path, attempt, "name a results file of COCO")
    form = "give a list of {image_id, category_id, bbox, score}, as COCO has results"
    try:
        entries = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}): {form}") from error
    if not isinstance(entries, list):
        raise DataError(f"{path} holds a {type(entries).__name__}: {form}")
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
    return Detections(found, findings, f"sha256:{hashlib.sha256(data).hexdigest()[:32]}")


def _detection(entry: Any, place: int, truth: Truth, categories: set[int]) -> tuple[Id, Detection]:
    if not isinstance(entry, Mapping):
        raise DataError(f"it is {entry!r:.40}, but must be an object")
    owner, category = entry.get("image_id"), entry.get("category_id")
    if isinstance(owner, bool) or not isinstance(owner, int | str) or owner not in truth.pictures:
        raise DataError(f"its image_id is {owner!r:.40}, which {truth.file.name} does not list")
    if type(category) is not int or category not in categories:
        raise DataError(f"its category_id is {category!r:.40}, which is not listed")
    score = _number(entry.get("score"), "score")
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise DataError(f"its bbox is {box!r:.80}, but must be [x, y, width, height]")
    x, y, width, height = (_number(side, "bbox") for side in box)
    if width <= 0 or height <= 0:
        raise DataError(f"its bbox is {width:g} wide and {height:g} high: it has no inside")
    picture = truth.pictures[owner]
    right, below = min(x + width, 1.0 * picture.width), min(y + height, 1.0 * picture.height)
    corners = (max(x, 0.0), max(y, 0.0), right, below)
    if corners[2] <= corners[0] or corners[3] <= corners[1]:
        raise DataError(
            f"its bbox is {[x, y, width, height]}, outside the picture of {picture.width} x "
            f"{picture.height}"
        )
    return owner, Detection(place, int(category), score, (x, y, width, height), corners)


def _number(value: Any, name: str) -> float:
    if not is_number(value):
        raise DataError(f"its {name} has {value!r:.40}, but must be of finite numbers")
    return float(value)
