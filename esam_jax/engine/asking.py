"""What a model has to say of pictures, as proposals for a person: all of it, or the doubts alone.

Assisted-manual (SAM, section 4, first stage): every mask is a proposal to be corrected.
Semi-automatic (second stage): confident masks are given as annotated already, beside those that
are; only what remains is asked for. The paper detects confident masks by a box detector that was
trained on the masks of the first stage; here a mask is confident by its predicted IoU and
stability, as in the third stage, so that no second model is needed.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from esam_jax import files
from esam_jax.engine import corrections, exchange, overlap
from esam_jax.errors import ConfigError, DataError
from esam_jax.ops import regions

Records = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Confidence:
    """When a mask of the model counts as annotated, and what is worth a question.

    A mask whose pixels lie in what is annotated by more than `most_overlap` is none of an object
    that is missing. `least_region`: share of the picture from which a part that nothing covers is
    asked about. ConfigError for what is no share.
    """

    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    most_overlap: float = 0.1
    least_region: float = 0.01

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:
                raise ConfigError(f"{field.name} is {value}, but must be from 0 to 1")

    def holds(self, record: Mapping[str, Any]) -> bool:
        """Whether a mask of the generator is good enough not to be looked at."""
        sure = record["predicted_iou"] >= self.pred_iou_thresh
        return sure and record["stability_score"] >= self.stability_score_thresh


def assisted(folder: Path) -> dict[str, Any]:
    """Every mask in `images/` of a folder of the engine, as a proposal."""
    images, annotations = [], []
    for image, records in _pictures(folder):
        images.append(image)
        annotations += [_of(record, image, "proposed") for record in records]
    return exchange.data_set(images, annotations)


def semi_automatic(
    folder: Path, existing: Mapping[str, Any], where: str | None, confidence: Confidence
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is annotated, what the model is confident of, and questions; with a report.

    `existing` is COCO json of pictures in `images/`, whose files have the names under which these
    came; `where` is it for people, None where there is none. The report counts `given`,
    `automatic`, `low_confidence`, `uncovered` and pictures that are `settled`, and has
    `broken_annotations` and `unknown` pictures. DataError where it has none of these pictures.
    """
    there = list(_pictures(folder))
    sources = [{**image, "file_name": image["source"]} for image, _ in there]
    if where is not None:
        _require_distinct(sources)
    categories = corrections.categories_of(existing)
    question = max(each["id"] for each in categories) + 1
    plain = next(each["id"] for each in categories if each["name"] == "object")
    found = corrections.Given()
    if where is not None:
        found = corrections.compare({"images": sources, "annotations": []}, existing, where)
    counts: collections.Counter[str] = collections.Counter()
    annotations = []
    for image, records in there:
        given = found.objects.get(exchange.file_key(image["source"]), [])
        own = [{**each, "image_id": image["id"], "state": "given"} for each in given]
        masks = [corrections.mask_of(each, "its object", image) for each in own]
        own += _added(image, records, masks, confidence, (plain, question))
        counts.update(each.get("reason", each["state"]) for each in own)
        counts["settled"] += exchange.is_done(own)
        annotations += own
    listed = [*categories, {"id": question, "name": exchange.QUESTION}]
    report = {key: counts[key] for key in (*_COUNTED, "settled")}
    report |= {"broken_annotations": found.broken, "unknown": found.unknown}
    return exchange.data_set([image for image, _ in there], annotations, listed), report


_COUNTED = ("given", "automatic", "low_confidence", "uncovered")


def _added(
    image: Mapping[str, Any],
    records: Records,
    given: list[dict[str, Any]],
    confidence: Confidence,
    categories: tuple[int, int],
) -> list[dict[str, Any]]:
    """The model's masks beside those that are `given`, and questions about what is left.

    `categories` are those of objects and of questions.
    """
    best = sorted(records, key=lambda record: -record["predicted_iou"])
    left = _outside(best, given, confidence.most_overlap)
    sure = [record for record in left if confidence.holds(record)]
    masks = [*given, *(record["segmentation"] for record in sure)]
    doubts = _outside([x for x in left if not confidence.holds(x)], masks, confidence.most_overlap)
    doubts = _distinct(doubts)
    masks += [record["segmentation"] for record in doubts]
    plain, question = categories
    about: dict[str, Any] = {"category_id": question}
    return [
        *(_of(record, image, "automatic", category_id=plain) for record in sure),
        *(_of(record, image, "asked", reason="low_confidence", **about) for record in doubts),
        *(
            exchange.annotation(image["id"], region, "asked", None, reason="uncovered", **about)
            for region in _uncovered(image, masks, confidence.least_region)
        ),
    ]


def _outside(records: Records, masks: Sequence[Any], most: float) -> list[Mapping[str, Any]]:
    """Those of which at most that share lies in the masks."""
    covered = overlap.union(masks)
    if covered is None:
        return [*records]
    share = overlap.shares([record["segmentation"] for record in records], [covered])
    return [x for x, inside in zip(records, share[:, 0].tolist(), strict=True) if inside <= most]


def _distinct(records: Records) -> list[Mapping[str, Any]]:
    """Those that are no other one again, the first of each."""
    masks = [record["segmentation"] for record in records]
    iou, kept = overlap.ious(masks, masks), []
    for i in range(len(records)):
        if not any(iou[i, j] >= corrections.SAME_OBJECT for j in kept):
            kept.append(i)
    return [records[i] for i in kept]


def _uncovered(
    image: Mapping[str, Any], masks: Sequence[Any], least: float
) -> list[dict[str, Any]]:
    """Connected parts of the picture that no mask covers, of that share of it or more."""
    from scipy import ndimage  # here, since it is slow to import

    covered = overlap.union(masks)
    size = (image["height"], image["width"])
    free = np.ones(size, bool) if covered is None else ~regions.from_rle(covered)
    found: Any = ndimage.label(free)
    labels, count = found
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    large = np.flatnonzero(areas >= max(1.0, least * free.size)) + 1
    return [regions.to_rle(labels == label) for label in large.tolist()]


def _of(
    record: Mapping[str, Any], image: Mapping[str, Any], state: exchange.State, **more: Any
) -> dict[str, Any]:
    about = {"stability_score": record["stability_score"], **more}
    rle = record["segmentation"]
    return exchange.annotation(image["id"], rle, state, record["predicted_iou"], **about)


def _pictures(folder: Path) -> list[tuple[dict[str, Any], Records]]:
    """Each picture that is done, as COCO lists it, with the masks that the model found."""
    found = []
    for file in sorted((folder / exchange.IMAGES).glob("sa_*.json")):
        content = files.read_json(file, max_bytes=exchange.MAX_JSON_BYTES, error=DataError)
        image = content["image"]
        entry = {"id": image["image_id"], **{key: image[key] for key in _IMAGE_KEYS}}
        found.append((entry, content["annotations"]))
    return found


_IMAGE_KEYS = ("file_name", "height", "width", "source")


def _require_distinct(images: Sequence[Mapping[str, Any]]) -> None:
    seen: dict[str, str] = {}
    for image in images:
        name = image["file_name"]
        other = seen.setdefault(exchange.file_key(name), name)
        if other != name:
            raise DataError(
                f"{other} and {name} have one file name, by which pictures are known in "
                "--annotations: rename one of them"
            )
