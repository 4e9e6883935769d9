"""Anybody's results for the pictures of a json, from results files of COCO: masks, boxes, or both.

Files are hostile until parsed: an entry that does not read, or belongs to nothing that the truth
lists, is left out and noted with its place in the file.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from esam_jax import files
from esam_jax.data.findings import Finding
from esam_jax.data.mask_sets import is_number
from esam_jax.errors import DataError
from esam_jax.evaluate.ground_truth import Id, Listed, Truth
from esam_jax.ops import regions

_MAX_BYTES = 2**33  # of one file; a thousand masks for each picture of LVIS may need more
_FORM = "give a list of {image_id, category_id, segmentation or bbox, score}, as COCO has results"


@dataclasses.dataclass(frozen=True)
class Results:
    """Usable entries in COCO's form, under the numbers of their pictures, in the file's order.

    Each has image_id, category_id, score and bbox; where they are of `masks`, each has its
    segmentation, too, as compressed run lengths.
    """

    entries: list[dict[str, Any]]
    masks: bool
    findings: list[Finding]
    digest: str

    def unanswered(self, truth: Truth) -> int:
        """How many pictures have none: perhaps nobody looked at them."""
        return len(truth.pictures) - len({each["image_id"] for each in self.entries})


def listed(path: Path, form: str) -> tuple[list[Any], str]:
    """The list in a json file and its digest, or those of all json files of a folder, in the order
    of their names; DataError, which says the `form`, for another."""
    parts = sorted(path.glob("[!.]*.json")) if path.is_dir() else [path]
    if not parts:
        raise DataError(f"{path} is a folder without a .json: {form}")
    entries: list[Any] = []
    digest = hashlib.sha256()
    for part in parts:
        data = _content(part)
        digest.update(data)
        entries += _parsed(data, part, form)
    return entries, f"sha256:{digest.hexdigest()[:32]}"


def _content(path: Path) -> bytes:
    def attempt() -> bytes:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(
                f"{path} has more than {_MAX_BYTES} bytes: split it, and name the folder of its "
                "parts"
            )
        return path.read_bytes()

    return files.read(path, attempt, "name a results file of COCO")


def _parsed(data: bytes, path: Path, form: str) -> list[Any]:
    try:
        entries = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}): {form}") from error
    if not isinstance(entries, list):
        raise DataError(f"{path} holds a {type(entries).__name__}: {form}")
    return entries


def read(path: Path, truth: Truth, *, any_category: bool = False) -> Results:
    """The results for pictures of `truth`; an empty list is none.

    With `any_category` a category need not be listed, or stated. DataError where nothing of a list
    can be used: results of other pictures, for example.
    """
    entries, digest = listed(path, _FORM)
    having = (
        isinstance(each, Mapping) and each.get("segmentation") is not None for each in entries
    )
    of_masks = not entries or any(having)
    categories = None if any_category else {each["id"] for each in truth.dataset["categories"]}
    found: list[dict[str, Any]] = []
    findings: list[Finding] = []
    for place, entry in enumerate(entries):
        try:
            about, picture = owner(entry, truth, categories)
            shape = _mask(entry, picture) if of_masks else _box_alone(entry)
            found.append({**about, **shape})
        except DataError as error:
            findings.append(Finding("detections_left_out", f"{path.name}: entry {place}: {error}"))
    if entries and not found:
        raise DataError(
            f"{path} has no result for a picture of {truth.file}: {_FORM}; {findings[0].text}"
        )
    return Results(found, of_masks, findings, digest)


def owner(entry: Any, truth: Truth, categories: set[int] | None) -> tuple[dict[str, Any], Listed]:
    """Picture number, category and score of an entry, and its picture; DataError for bad ones.

    Where there are no `categories`, one that is missing is 1.
    """
    if not isinstance(entry, Mapping):
        raise DataError(f"it is {entry!r:.40}, but must be an object")
    identity: Id | Any = entry.get("image_id")
    known = isinstance(identity, int | str) and not isinstance(identity, bool)
    if not known or identity not in truth.pictures:
        raise DataError(f"its image_id is {identity!r:.40}, which {truth.file.name} does not list")
    category = entry.get("category_id", 1 if categories is None else None)
    if type(category) is not int or not (categories is None or category in categories):
        raise DataError(f"its category_id is {category!r:.40}, which is not listed")
    picture = truth.pictures[identity]
    score = number(entry.get("score"), "score")
    return {"image_id": picture.number, "category_id": category, "score": score}, picture


def number(value: Any, name: str) -> float:
    """A finite number; DataError for anything else."""
    if not is_number(value):
        raise DataError(f"its {name} has {value!r:.40}, but must be of finite numbers")
    return float(value)


def box(entry: Mapping[str, Any]) -> list[float]:
    """The stated box (x, y, width, height), which may have no inside."""
    sides = entry.get("bbox")
    if not isinstance(sides, list) or len(sides) != 4:
        raise DataError(f"its bbox is {sides!r:.80}, but must be [x, y, width, height]")
    found = [number(side, "bbox") for side in sides]
    if min(found[2:]) < 0:
        raise DataError(f"its bbox is {found[2]:g} wide and {found[3]:g} high: it has no inside")
    return found


def _box_alone(entry: Mapping[str, Any]) -> dict[str, Any]:
    if entry.get("bbox") is None:
        raise DataError("it has neither a segmentation nor a bbox")
    return {"bbox": box(entry)}


def _mask(entry: Mapping[str, Any], picture: Listed) -> dict[str, Any]:
    """The mask, and the stated box or else the mask's."""
    segmentation, size = entry.get("segmentation"), [picture.height, picture.width]
    if segmentation is None:
        raise DataError("it has no segmentation, as other entries have")
    if isinstance(segmentation, Mapping):
        if segmentation.get("size") != size:
            raise DataError(
                f"its segmentation has the size {str(segmentation.get('size'))[:60]}, but the "
                f"picture is {size}"
            )
        runs = regions.rle_runs(segmentation)
    else:
        runs = regions.polygon_runs(segmentation, *size)
    mask = regions.compress({"size": size, "counts": runs.tolist()})
    stated = entry.get("bbox") is not None
    bbox = box(entry) if stated else list(map(float, regions.rle_box(mask)))
    return {"segmentation": mask, "bbox": bbox}


def by_picture(entries: Sequence[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """The entries of each picture, by its number."""
    found: dict[int, list[dict[str, Any]]] = {}
    for each in entries:
        found.setdefault(each["image_id"], []).append(each)
    return found
