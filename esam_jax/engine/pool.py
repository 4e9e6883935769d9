"""The pictures of a loop as files: few with their masks, many without, and some to measure on.

labelled/       pictures whose masks are in labelled.json
unlabelled/     pictures without masks; hidden.json has them, for measuring alone
heldout/        pictures whose masks are in heldout.json
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from esam_jax import files
from esam_jax.data.bitmaps import Grid
from esam_jax.data.mask_sets import SoundMasks
from esam_jax.data.records import Source
from esam_jax.errors import DataError
from esam_jax.ops import regions
from esam_jax.predict import draw
from esam_jax.words import counted

CATEGORIES = [{"id": 1, "name": "object", "supercategory": "object"}]
PARTS = {"labelled": "labelled.json", "unlabelled": "hidden.json", "heldout": "heldout.json"}


def split(
    source: Source, counts: dict[str, int], seed: int
) -> dict[str, tuple[Source, Sequence[int]]]:
    """Which records of one source are in which part; DataError where there are too few.

    The parts are of a random order that the seed gives; those without a count share what is left.
    """
    needed = sum(counts.values()) + 1
    if len(source) < needed:
        raise DataError(
            f"there are {counted(len(source), 'picture')}, but {needed} are needed "
            f"({', '.join(f'{count} {part}' for part, count in counts.items())}, and one that is "
            "unlabelled): lower these numbers, or name more pictures"
        )
    order = np.random.default_rng(seed).permutation(len(source)).tolist()
    found: dict[str, tuple[Source, Sequence[int]]] = {}
    for part, count in counts.items():
        found[part], order = (source, sorted(order[:count])), order[count:]
    return {**found, "unlabelled": (source, sorted(order))}


def write(folder: Path, parts: dict[str, tuple[Source, Sequence[int]]], most: int) -> None:
    """Writes the folder complete, or not at all; at most so many unlabelled pictures.

    Pictures and objects that are broken are left out. DataError where a part has no object then.
    """
    with files.replacing_folder(folder, remedy="make room, then run the same command") as fresh:
        for part, (source, indices) in parts.items():
            chosen = indices[:most] if part == "unlabelled" else indices
            content = _written(fresh, part, source, chosen)
            if not content["annotations"]:
                raise DataError(f"the {part} pictures have no object: name other data")
            files.write(fresh / PARTS[part], json.dumps(content))


def coco(images: Sequence[Any], annotations: Sequence[Any]) -> dict[str, Any]:
    """A data set of one category, whose objects get running numbers."""
    numbered = [{**each, "id": i + 1} for i, each in enumerate(annotations)]
    return {"images": [*images], "annotations": numbered, "categories": CATEGORIES}


def annotation(image_id: int, rle: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An object of COCO; `rle` is its mask in compressed run lengths."""
    box, area = regions.rle_box(rle), regions.rle_area(rle)
    about = {"image_id": image_id, "category_id": 1, "iscrowd": 0, "bbox": box, "area": area}
    return {**about, "segmentation": rle, **more}


def _written(folder: Path, part: str, source: Source, indices: Sequence[int]) -> dict[str, Any]:
    """The pictures of a part as files, and what COCO says of them."""
    (folder / part).mkdir()
    images, annotations = [], []
    for index in indices:
        try:
            record = source.read(index)
            pixels = record.picture.rgb()
        except DataError:
            continue
        height, width = pixels.shape[:2]
        number = len(images) + 1
        name = f"{part}/{number:06d}.png"
        files.write(folder / name, draw.png(pixels))
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        masks, grid = SoundMasks(record), Grid.whole(height, width)
        found = (masks.sample(i, grid) for i in range(len(masks)))
        annotations += [
            annotation(number, regions.to_rle(mask.dense()))
            for mask in found
            if mask is not None and mask.area()
        ]
    return coco(images, annotations)
