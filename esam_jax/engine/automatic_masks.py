"""The masks that a model finds by itself, as training data and compared with the truth."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from esam_jax.data import decode
from esam_jax.engine import overlap, pool
from esam_jax.ops import regions
from esam_jax.predict import draw
from esam_jax.predict.everything import album
from esam_jax.predict.everything.generator import AutomaticMaskGenerator
from esam_jax.words import counted

_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of COCO, for average recall
# Arguments of a generator that keeps all masks but near copies, since recall is of the best ones.
UNFILTERED: Mapping[str, Any] = {
    "pred_iou_thresh": 0.0,
    "stability_score_thresh": 0.0,
    "box_nms_thresh": 0.9,
}
_GOOD = 0.75  # IoU from which an automatic mask is counted as right
Masks = Mapping[int, Sequence[Mapping[str, Any]]]  # run lengths, by the id of their picture


def joined(data: Path, folder: Path, per_picture: float) -> dict[str, Any]:
    """COCO json of the labelled pictures, and of others with the best masks found in `folder`.

    `info` says how good these are, by the masks that were hidden from the model.
    """
    labelled = json.loads((data / pool.PARTS["labelled"]).read_text())
    hidden = json.loads((data / pool.PARTS["unlabelled"]).read_text())
    images, annotations = [*labelled["images"]], [*labelled["annotations"]]
    first = len(images)
    chosen = best(_records(folder, hidden["images"]), per_picture)
    for image in hidden["images"]:
        own = chosen[image["id"]]
        identity = first + image["id"]
        images += [{**image, "id": identity}] if own else []
        annotations += [
            pool.annotation(
                identity, each["segmentation"], score=each["predicted_iou"], state="automatic"
            )
            for each in own
        ]
    masks = {key: [each["segmentation"] for each in own] for key, own in chosen.items()}
    return {**pool.coco(images, annotations), "info": quality(masks, hidden)}


def best(records: Mapping[int, Sequence[Any]], per_picture: float) -> dict[int, list[Any]]:
    """The most stable ones, so many of a picture on average, in their order; of equals the earlier.

    A stability that is NaN, of a mask that is empty at both thresholds, comes last.
    """
    places = [(key, i) for key, own in records.items() for i in range(len(own))]
    # Sorting keeps the order of equals.
    places.sort(key=lambda at: -np.nan_to_num(records[at[0]][at[1]]["stability_score"], nan=-1.0))
    chosen = {*places[: round(per_picture * len(records))]}
    return {
        key: [x for i, x in enumerate(own) if (key, i) in chosen] for key, own in records.items()
    }


def _records(folder: Path, images: Sequence[Mapping[str, Any]]) -> dict[int, list[Any]]:
    """What an album has of each picture, by its id."""
    found = {}
    for image in images:
        name = Path(image["file_name"]).name
        content = json.loads((folder / f"sa_{album.number(name)}.json").read_text())
        found[image["id"]] = content["annotations"]
    return found


def quality(masks: Masks, truth: Mapping[str, Any]) -> dict[str, Any]:
    """Of all automatic masks: how many, their mean IoU with the best object, and the share of them
    with 0.75 or more; None where there are none."""
    overlaps = [iou.max(1) for iou in _ious(masks, truth) if iou.size]
    count = sum(map(len, masks.values()))
    if not count:
        return {"masks": 0, "mean_iou": None, "right": None}
    # A picture without an object matches nothing.
    found = np.pad(np.concatenate([np.zeros(0), *overlaps]), (0, count - sum(map(len, overlaps))))
    right = float((found >= _GOOD).mean())
    return {"masks": count, "mean_iou": round(float(found.mean()), 6), "right": round(right, 6)}


def recall(generator: AutomaticMaskGenerator, json_file: Path, most: int) -> float:
    """AR (IoU 0.5 to 0.95) of the `most` masks of each picture with the highest predicted IoU."""
    truth = json.loads(json_file.read_text())
    masks = {}
    for image in truth["images"]:
        records = generator.generate(_picture(json_file, image))
        ranked = sorted(records, key=lambda record: -record["predicted_iou"])[:most]
        masks[image["id"]] = [record["segmentation"] for record in ranked]
    overlaps = _ious(masks, truth)
    best_of = [iou.max(0) if iou.shape[0] else np.zeros(iou.shape[1]) for iou in overlaps]
    return round(float((np.concatenate(best_of)[:, None] >= _THRESHOLDS).mean()), 6)


def _ious(masks: Masks, truth: Mapping[str, Any]) -> list[Float[np.ndarray, "_ _"]]:
    """Of each picture's masks with its objects."""
    objects: dict[int, list[Any]] = {image["id"]: [] for image in truth["images"]}
    for each in truth["annotations"]:
        objects[each["image_id"]].append(each["segmentation"])
    return [overlap.ious(masks[key], objects[key]) for key in objects]


def sheet(
    generators: Sequence[AutomaticMaskGenerator],
    titles: Sequence[str],
    json_file: Path,
    count: int,
    per_picture: float,
) -> UInt8[np.ndarray, "_ _ 3"]:
    """The first pictures of a json: their objects, and the `best` masks of each generator."""
    truth = json.loads(json_file.read_text())
    images = truth["images"][:count]
    pictures = {image["id"]: _picture(json_file, image) for image in images}
    found = [
        best({key: one.generate(picture) for key, picture in pictures.items()}, per_picture)
        for one in generators
    ]
    rows = []
    for image in images:
        key, picture = image["id"], pictures[image["id"]]
        objects = [x for x in truth["annotations"] if x["image_id"] == key]
        sets = [[x["segmentation"] for x in own] for own in (objects, *(x[key] for x in found))]
        captions = [counted(len(each), "mask") for each in sets[1:]]
        masks = [_dense(each, picture.shape[:2]) for each in sets]
        rows.append(draw.Row(picture=picture, prompts=[], masks=masks, captions=["", *captions]))
    return draw.contact_sheet(rows, titles)


def _picture(json_file: Path, image: Mapping[str, Any]) -> UInt8[np.ndarray, "H W 3"]:
    return decode.read_rgb(json_file.parent / image["file_name"])


def _dense(masks: Sequence[Mapping[str, Any]], size: tuple[int, ...]) -> np.ndarray:
    return np.array([regions.from_rle(each) for each in masks], bool).reshape(-1, *size)
