"""Masks from boxes beside the objects of the truth: how well each was found, and worst pictures."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from esam_jax.evaluate.numbers import mean
from esam_jax.evaluate.protocol import size_of
from esam_jax.ops import regions
from esam_jax.predict import draw, overlays
from esam_jax.predict.draw import Row
from esam_jax.predict.prompt import Prompt

_PICTURES = 12
_OBJECTS = 40  # of a picture
_LONG_PX = 512
_HEAD = ("picture", "object", "category", "area", "size", "iou", "score")


def objects(
    dataset: Mapping[str, Sequence[Mapping[str, Any]]], results: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """For each object that is no crowd, the highest IoU of a mask of its category, and its score.

    Both 0 where its picture has no mask of the category. Masks are compressed run lengths.
    """
    from pycocotools import mask as coco_mask

    found: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for each in results:
        found.setdefault((each["image_id"], each["category_id"]), []).append(each)
    names = {image["id"]: image["file_name"] for image in dataset["images"]}
    rows = []
    for each in dataset["annotations"]:
        if each["iscrowd"]:
            continue
        masks = found.get((each["image_id"], each["category_id"]), [])
        runs: Any = [mask["segmentation"] for mask in masks]
        truth: Any = [each["segmentation"]]
        ious = np.asarray(coco_mask.iou(runs, truth, [0]))[:, 0] if masks else np.zeros(0)
        best = int(ious.argmax()) if masks else None
        rows.append(
            {
                "picture": names[each["image_id"]],
                "object": each["source_id"],
                "category": each["category_id"],
                "area": each["area"],
                "size": size_of(each["area"]),
                "iou": 0.0 if best is None else float(ious[best]),
                "score": 0.0 if best is None else float(masks[best]["score"]),
            }
        )
    return rows


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each object."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEAD)
    writer.writerows([row[name] for name in _HEAD] for row in rows)
    return text.getvalue()


def worst(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """The pictures with the lowest mean IoU over their objects, and that."""
    pictures: dict[str, list[float]] = {}
    for row in rows:
        pictures.setdefault(row["picture"], []).append(row["iou"])
    means = ((mean(ious), name) for name, ious in pictures.items())
    return [(name, value) for value, name in sorted(means)[:_PICTURES]]


def row(
    name: str,
    image: UInt8[np.ndarray, "H W 3"],
    boxes: Sequence[Prompt],
    masks: Sequence[Sequence[Mapping[str, Any]]],
    captions: Sequence[str],
) -> Row:
    """A picture with forty at most of its boxes, and of each of several sets of masks (run lengths)
    with its caption."""
    scale = min(1.0, _LONG_PX / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    share = size[0] / image.shape[1], size[1] / image.shape[0]
    return Row(
        picture=np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)),
        prompts=[overlays.scaled(box, *share) for box in boxes[:_OBJECTS]],
        masks=[_small(some[:_OBJECTS], size) for some in masks],
        captions=captions,
        name=name,
    )


def sheet(rows: Sequence[Row], titles: Sequence[str]) -> bytes:
    """A PNG of pictures under the titles: of the picture with its boxes, and of each set."""
    return draw.png(draw.contact_sheet(rows, titles))


def _small(runs: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> Bool[np.ndarray, "Q H W"]:
    masks = np.zeros((len(runs), size[1], size[0]), bool)
    for slot, each in zip(masks, runs, strict=True):
        dense = Image.fromarray(np.ascontiguousarray(regions.from_rle(each)))
        slot[:] = np.asarray(dense.resize(size, Image.Resampling.NEAREST))
    return masks
