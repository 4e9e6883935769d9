"""The masks that a model finds by itself, as training data and compared with the truth."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from esam_jax.data import decode
from esam_jax.data.archives import Album
from esam_jax.engine import overlap, pool
from esam_jax.ops import regions
from esam_jax.predict import draw
from esam_jax.predict.everything import album
from esam_jax.predict.everything.generator import AutomaticMaskGenerator

_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of COCO, for average recall
_GOOD = 0.75  # IoU from which an automatic mask is counted as right
Masks = Mapping[int, Sequence[Mapping[str, Any]]]  # run lengths, by the id of their picture


def joined(data: Path, folder: Path, pictures: Album) -> dict[str, Any]:
    """COCO json of the labelled pictures and those annotated in `folder`, which have a mask.

    `info` says how good the automatic masks are, by the masks that were hidden from the model.
    """
    labelled = json.loads((data / pool.PARTS["labelled"]).read_text())
    hidden = json.loads((data / pool.PARTS["unlabelled"]).read_text())
    images, annotations = [*labelled["images"]], [*labelled["annotations"]]
    first, masks = len(images), {}
    for image in hidden["images"]:
        name = Path(image["file_name"]).name
        content = json.loads((folder / f"sa_{album.number(name)}.json").read_text())
        masks[image["id"]] = [each["segmentation"] for each in content["annotations"]]
        identity = first + image["id"]
        images += [{**image, "id": identity}] if masks[image["id"]] else []
        annotations += [
            pool.annotation(
                identity, each["segmentation"], score=each["predicted_iou"], state="automatic"
            )
            for each in content["annotations"]
        ]
    return {**pool.coco(images, annotations), "info": quality(masks, hidden)}


def found(generator: AutomaticMaskGenerator, json_file: Path) -> Masks:
    """Automatic masks of the pictures of a json in the folder of its pictures."""
    content = json.loads(json_file.read_text())
    return {
        image["id"]: [
            record["segmentation"]
            for record in generator.generate(_picture(json_file, image))
            if record["area"]
        ]
        for image in content["images"]
    }


def quality(masks: Masks, truth: Mapping[str, Any]) -> dict[str, Any]:
    """Of all automatic masks: how many, their mean IoU with the best object, and the share of them
    with 0.75 or more; None where there are none."""
    best = np.concatenate([np.zeros(0), *(iou.max(1) for iou in _ious(masks, truth) if iou.size)])
    count = sum(map(len, masks.values()))
    best = np.pad(best, (0, count - len(best)))  # a picture without an object matches nothing
    if not count:
        return {"masks": 0, "mean_iou": None, "right": None}
    right = float((best >= _GOOD).mean())
    return {"masks": count, "mean_iou": round(float(best.mean()), 6), "right": round(right, 6)}


def recall(masks: Masks, json_file: Path) -> dict[str, Any]:
    """AR (IoU 0.5 to 0.95, all masks), and `quality` of the masks of a json's pictures."""
    truth = json.loads(json_file.read_text())
    best = np.concatenate(
        [iou.max(0) if iou.shape[0] else np.zeros(iou.shape[1]) for iou in _ious(masks, truth)]
    )
    found = float((best[:, None] >= _THRESHOLDS).mean())
    return {"AR": round(found, 6), "automatic": quality(masks, truth)}


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
) -> UInt8[np.ndarray, "_ _ 3"]:
    """The first pictures of a json: their objects, and the masks of each generator."""
    truth = json.loads(json_file.read_text())
    rows = []
    for image in truth["images"][:count]:
        picture = _picture(json_file, image)
        objects = [x["segmentation"] for x in truth["annotations"] if x["image_id"] == image["id"]]
        sets = [objects]
        for generator in generators:
            records = sorted(generator.generate(picture), key=lambda record: -record["area"])
            sets.append([record["segmentation"] for record in records])
        captions = [f"{len(each)} masks" for each in sets[1:]]
        masks = [_dense(each, picture.shape[:2]) for each in sets]
        rows.append(draw.Row(picture=picture, prompts=[], masks=masks, captions=["", *captions]))
    return draw.contact_sheet(rows, titles)


def _picture(json_file: Path, image: Mapping[str, Any]) -> UInt8[np.ndarray, "H W 3"]:
    return decode.read_rgb(json_file.parent / image["file_name"])


def _dense(masks: Sequence[Mapping[str, Any]], size: tuple[int, ...]) -> np.ndarray:
    return np.array([regions.from_rle(each) for each in masks], bool).reshape(-1, *size)
