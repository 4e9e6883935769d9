"""How well the mask that ranks first for a category's name fits its objects, and what could be.

A pair is a picture and a category that has objects in it. Every mask that was compared with the
text has an IoU with the object of that category which it overlaps most. That of the first mask is
the score of the pair; `oracle` is the highest of all, which a perfect ranking reaches, and `chance`
their mean, which a random one reaches.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from esam_jax.evaluate import average_recall
from esam_jax.evaluate.numbers import mean
from esam_jax.ops import regions
from esam_jax.predict.zero_shot.text import TextMasks

NUMBERS = ("miou", "union_miou", "hits", "oracle", "chance")
HIT = 0.5  # the IoU from which a mask is one of an object
WORDS = (
    "each text has one answer, the mask of highest cosine: miou of its IoU with the object of the "
    "category that it overlaps most, union_miou with all of these objects together, hits from an "
    f"IoU of {HIT:g}; oracle: the highest IoU of a mask that was compared; chance: the mean of "
    "all; 0 without a mask"
)
_OF = {  # what a number is the mean of
    "miou": "iou",
    "union_miou": "union_iou",
    "hits": "hit",
    "oracle": "oracle",
    "chance": "chance",
}
_HEAD = ("picture", "category", "text", "objects", *_OF.values(), "similarity", "probability")


def of_pair(found: TextMasks, text: int, objects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The scores of one of the texts and the objects that it means, as JSON has them.

    `best` is the mask that ranks first and `closest` the one that a perfect ranking takes; None
    where no mask was compared, and where none overlaps an object. Masks are run lengths.
    """
    masks = [{"segmentation": found.masks[i]["segmentation"]} for i in found.scored.tolist()]
    about = {"category": objects[0]["category_id"], "objects": len(objects)}
    if not masks:
        numbers = dict.fromkeys((*_OF.values(), "similarity", "probability"), 0.0)
        return {**about, **numbers, "best": None, "closest": None}
    ious = average_recall.overlaps(masks, objects, "segm").max(1)
    best, closest = int(found.order(text)[0]), int(ious.argmax())
    union = average_recall.overlaps([masks[best]], [_together(objects)], "segm")
    return {
        **about,
        "iou": float(ious[best]),
        "union_iou": float(union[0, 0]),
        "hit": float(ious[best] >= HIT),
        "oracle": float(ious[closest]),
        "chance": mean(ious.tolist()),
        "similarity": float(found.similarities[text, best]),
        "probability": float(found.probabilities[text, best]),
        "best": masks[best]["segmentation"],
        "closest": masks[closest]["segmentation"] if ious[closest] else None,
    }


def _together(objects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is in any of them, as one object."""
    from pycocotools import mask as coco_mask

    runs: Any = [each["segmentation"] for each in objects]
    return {"segmentation": coco_mask.merge(runs, intersect=False)}


def summary(
    pairs: Sequence[Mapping[str, Any]], names: Mapping[int, str], texts: Mapping[int, str]
) -> dict[str, Any]:
    """The means over pairs, of which there is one at least; `by_category`, the means over the
    means of the categories; and `per_category`, those, of the most pairs first."""
    members: dict[int, list[Mapping[str, Any]]] = {}
    for pair in pairs:
        members.setdefault(pair["category"], []).append(pair)
    rows = [
        {
            "id": category,
            "name": names[category],
            "text": texts[category],
            "pairs": len(some),
            **_means(some),
        }
        for category, some in sorted(members.items(), key=lambda each: (-len(each[1]), each[0]))
    ]
    return {
        **_means(pairs),
        "pairs": len(pairs),
        "categories": len(rows),
        "by_category": {name: mean(row[name] for row in rows) for name in NUMBERS},
        "per_category": rows,
    }


def _means(pairs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {name: mean(pair[key] for pair in pairs) for name, key in _OF.items()}


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each pair; `rows` are pairs with their `picture` and `text`."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(_HEAD)
    writer.writerows([row[name] for name in _HEAD] for row in rows)
    return written.getvalue()


def as_results(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The masks that rank first as a results file of COCO has them, scored by their cosine.

    `rows` are pairs with the `image_id` of their picture.
    """
    return [
        {
            "image_id": row["image_id"],
            "category_id": row["category"],
            "segmentation": row["best"],
            "bbox": regions.rle_box(row["best"]),
            "score": row["similarity"],
        }
        for row in rows
        if row["best"] is not None
    ]
