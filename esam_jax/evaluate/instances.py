"""Masks from the boxes of a detector, and their average precision (arXiv:2304.02643, section 7.4).

Categories and scores are the detector's. SAM's protocol (section D.4) takes the most confident mask
and refines it once, fed back with its box; EfficientSAM's (arXiv:2312.00863, section 4.3) takes the
candidate with the highest IoU with the box. Each local device works on a picture of its own, so
that no mask depends on other pictures, their order or the number of devices.
"""

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from esam_jax import files
from esam_jax.convert import provenance
from esam_jax.data.findings import Finding, Findings
from esam_jax.errors import ConfigError, DataError, MissingError
from esam_jax.evaluate import (
    instance_scores,
    kept,
    matches,
    published,
    runner,
    truth_pictures,
)
from esam_jax.evaluate.average_precision import Rules
from esam_jax.evaluate.detections import Detection, Detections
from esam_jax.evaluate.ground_truth import Id, Truth
from esam_jax.evaluate.kept import Kept
from esam_jax.evaluate.protocol import Takes
from esam_jax.machine import out_of_memory
from esam_jax.ops import regions
from esam_jax.predict import devices
from esam_jax.predict.everything import album
from esam_jax.predict.masks import Masks
from esam_jax.predict.prompt import Prompt
from esam_jax.predict.sam import Sam
from esam_jax.words import counted

Choice = Literal["confident", "box_iou"]

RESULT_FILE, MASKS_FILE = "result.json", "masks.json"
OBJECTS_FILE, WORST_FILE = "objects.csv", "worst.png"
_FILES = (RESULT_FILE, MASKS_FILE, OBJECTS_FILE, WORST_FILE, runner.PLOTS)
_BOXES = 32  # of a picture, whose masks are at full size at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instances:
    """How masks are made of boxes, and by whose rules they are scored.

    choose: of the three candidates the most confident one, or the one with the highest IoU with the
    filled box. refine: the logits of the mask that was chosen go back with the box; what is
    answered then is the single mask where it was trained, else chosen as before.
    """

    choose: Choice = "confident"
    refine: bool = False
    annotations: Rules = "coco"

    def require(self, sam: Sam) -> None:
        """ConfigError where the model cannot be measured so."""
        if self.refine and not Takes.of(sam.config, sam.untrained).masks:
            raise ConfigError(
                "--refine feeds a mask back, but this checkpoint never learned mask prompts: leave "
                "it out"
            )

    def words(self, sam: Sam) -> str:
        """The protocol in words."""
        takes = Takes.of(sam.config, sam.untrained)
        best = {
            "confident": "the one with the highest predicted IoU",
            "box_iou": "the one whose IoU with the filled box is highest",
        }[self.choose]
        parts = [
            f"one box of the detector a mask, clipped to its picture; of three candidates {best}"
        ]
        if self.refine:
            second = "the single mask" if takes.single else "chosen alike"
            parts.append(f"a second pass with the box and the logits of that mask, {second}")
        parts.append(f"logits {'>=' if takes.zero_is_inside else '>'} 0 at the picture's own size")
        parts.append("scores and categories of the detector")
        scorer = instance_scores.words("mask", self.annotations)
        parts.append(f"{scorer}. Broken pictures are left out")
        return f"{'; '.join(parts)}."


@out_of_memory.advice()
def evaluate(
    sam: Sam,
    truth: Truth,
    found: Detections,
    how: Instances,
    *,
    out: Path | None = None,
    model: str = "",
    sixteen_bit: Literal["upper_byte", "stretch"] = "upper_byte",
    progress: bool | None = None,
) -> dict[str, Any]:
    """Mask AP of the boxes `found`, and the AP of the boxes themselves.

    Result: what `instance_scores.scored` gives (AP, AP50, ..., `ap` and `box_ap`), `images`,
    `masks`, `skipped`, what was left out by the names of `KINDS` with `reasons`, `data`, `boxes`
    and `model_hash` (digests), `published`, `protocol`, `seconds`, `resumed`. With `out`:
    masks.json (COCO results), objects.csv, worst.png, result.json, and a killed evaluation resumes.
    `progress` forces the bar on stderr on or off. ConfigError where the model takes no mask prompts
    for `refine`.
    """
    begin = time.monotonic()
    how.require(sam)
    about = {"data": truth.digest, "boxes": found.digest, "model_hash": album.digest(sam)}
    if out is not None:
        settings = {"task": "instances", **dataclasses.asdict(how), "sixteen_bit": sixteen_bit}
        kept.settle(out, {**settings, **about}, _FILES)
    store = Kept(out, "0")
    order = sorted(found.of, key=lambda identity: truth.pictures[identity].number)
    waiting = [each for each in order if truth.pictures[each].number not in store]

    def on(model: Sam, identity: Id) -> dict[str, Any]:
        return _of_picture(model, truth, identity, found.of[identity], how, sixteen_bit)

    shared = devices.share(waiting, sam, on, count=len(waiting), ahead=3)
    for identity, content in truth_pictures.shown(shared, len(waiting), "instances", progress):
        store.put(truth.pictures[identity].number, content)
    contents = dict(zip(order, store.of([truth.pictures[each].number for each in order])))
    broken = {identity: x["broken"] for identity, x in contents.items() if x["broken"]}
    dataset = truth.of_pictures(set(truth.pictures) - set(broken))
    results = list(_results(truth, found, contents, by_id=False))
    result: dict[str, Any] = {"task": "instances", "model": model, **about}
    result |= instance_scores.scored(dataset, results, how.annotations)
    result |= {"images": len(dataset["images"]), "masks": len(results), "skipped": len(broken)}
    findings = Findings((*truth.findings, *found.findings))
    findings.add(Finding(*each) for x in contents.values() for each in x["findings"])
    result |= truth_pictures.left_out(findings, list(broken.values()))
    result["protocol"] = how.words(sam)
    result["published"] = _published(sam, model, truth, found, how, len(broken))
    result |= {"seconds": round(time.monotonic() - begin, 1), "resumed": len(order) - len(waiting)}
    if out is not None:
        rows = matches.objects(dataset, results)
        files.write(out / OBJECTS_FILE, matches.as_csv(rows))
        files.write(out / WORST_FILE, _worst(truth, found, contents, dataset, rows, sixteen_bit))
        files.write(out / MASKS_FILE, json.dumps(_exported(truth, found, contents)))
        files.write(out / RESULT_FILE, json.dumps(result, indent=1) + "\n")
    return result


# ------------------------------------------------------------------------------------- masks


def _of_picture(
    sam: Sam,
    truth: Truth,
    identity: Id,
    boxes: Sequence[Detection],
    how: Instances,
    sixteen_bit: Literal["upper_byte", "stretch"],
) -> dict[str, Any]:
    """What is kept of a picture: a mask for each box, or what is wrong with it."""
    listed, noted = truth.pictures[identity], []
    try:
        image = truth_pictures.read(truth, listed, sixteen_bit, noted)
    except (DataError, MissingError) as error:
        return {"broken": str(error), "masks": [], "findings": []}
    embedding = sam.encode(image)
    masks: list[dict[str, Any]] = []
    for first in range(0, len(boxes), _BOXES):
        some = boxes[first : first + _BOXES]
        masks += _found(sam, embedding, some, how)
    return {
        "broken": None,
        "masks": [
            {"place": box.place, "segmentation": mask}
            for box, mask in zip(boxes, masks, strict=True)
        ],
        "findings": [[each.kind, each.text, each.count] for each in noted],
    }


def _found(
    sam: Sam, embedding: Any, boxes: Sequence[Detection], how: Instances
) -> list[dict[str, Any]]:
    """Run lengths of the mask of each box."""
    prompts = [Prompt(box=box.corners) for box in boxes]
    masks = sam.decode(embedding, prompts)
    chosen = choose(masks, boxes, how.choose)
    if how.refine:
        fed = [
            Prompt(box=box.corners, mask=masks.low_res[i, k])
            for i, (box, k) in enumerate(zip(boxes, chosen, strict=True))
        ]
        single = provenance.SINGLE_MASK not in sam.untrained
        masks = sam.decode(embedding, fed, multimask=not single)
        chosen = np.zeros(len(boxes), int) if single else choose(masks, boxes, how.choose)
    if how.choose == "confident":
        return masks.best_rle()[1]
    found = masks.binary()
    return [regions.to_rle(found[i, k]) for i, k in enumerate(chosen)]


def choose(masks: Masks, boxes: Sequence[Detection], how: Choice) -> Int[np.ndarray, " Q"]:
    """Which of the candidates is taken for each box; the first of equals."""
    if how == "confident":
        return masks.scores.argmax(axis=1)
    found = masks.binary()
    return np.array([box_ious(each, box).argmax() for each, box in zip(found, boxes, strict=True)])


def box_ious(candidates: Bool[np.ndarray, "M H W"], box: Detection) -> Float[np.ndarray, " M"]:
    """IoU of each mask with the filled box: the pixels whose centres lie in it."""
    height, width = candidates.shape[1:]
    x0, y0, x1, y1 = box.corners
    columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
    across, down = (columns >= x0) & (columns <= x1), (rows >= y0) & (rows <= y1)
    inside = candidates[:, down][:, :, across].sum((1, 2))
    area = int(across.sum()) * int(down.sum())
    union = candidates.sum((1, 2)) + area - inside
    return inside / np.maximum(union, 1)


# ------------------------------------------------------------------------------------ scores


def _results(
    truth: Truth, found: Detections, contents: Mapping[Id, Mapping[str, Any]], *, by_id: bool
) -> Iterator[dict[str, Any]]:
    """Each mask in COCO's form, under the id of its picture or under its number."""
    for identity, content in contents.items():
        boxes = {box.place: box for box in found.of[identity]}
        for each in content["masks"]:
            box = boxes[each["place"]]
            yield {
                "image_id": identity if by_id else truth.pictures[identity].number,
                "category_id": box.category,
                "bbox": list(box.box),
                "score": box.score,
                "segmentation": each["segmentation"],
            }


def _exported(
    truth: Truth, found: Detections, contents: Mapping[Id, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """As a results file for any scorer: without the boxes, which are not those of the masks."""
    results = _results(truth, found, contents, by_id=True)
    return [{key: value for key, value in each.items() if key != "bbox"} for each in results]


def _published(
    sam: Sam, model: str, truth: Truth, found: Detections, how: Instances, broken: int
) -> dict[str, Any]:
    return published.instances(
        sam.config,
        model,
        truth.file,
        choice=how.choose,
        refine=how.refine,
        rules=how.annotations,
        pictures=len(truth.pictures),
        boxed=len(found.of),
        broken=broken,
    )


def _worst(
    truth: Truth,
    found: Detections,
    contents: Mapping[Id, Mapping[str, Any]],
    dataset: Mapping[str, Sequence[Mapping[str, Any]]],
    rows: Sequence[Mapping[str, Any]],
    sixteen_bit: Literal["upper_byte", "stretch"],
) -> bytes:
    """The sheet of the pictures whose objects were found worst."""
    by_name = {listed.name: identity for identity, listed in truth.pictures.items()}
    drawn = []
    for name, value in matches.worst(rows):
        identity = by_name[name]
        listed = truth.pictures[identity]
        try:
            image = truth_pictures.read(truth, listed, sixteen_bit, [])
        except (DataError, MissingError):
            continue  # it has no box either, so that nobody has read it before
        boxes = {box.place: box for box in found.of.get(identity, ())}
        masks = contents[identity]["masks"] if identity in contents else []
        masks = sorted(masks, key=lambda each: -boxes[each["place"]].score)
        objects = [
            each["segmentation"]
            for each in dataset["annotations"]
            if each["image_id"] == listed.number and not each["iscrowd"]
        ]
        prompts = [Prompt(box=boxes[each["place"]].corners) for each in masks]
        runs = [each["segmentation"] for each in masks]
        captions = [counted(len(objects), "object"), f"mean IoU {value:.3f}"]
        drawn.append(matches.row(name, image, prompts, [objects, runs], captions))
    return matches.sheet(drawn, ("boxes", "truth", "masks"))
