"""A model's object proposals and their average recall (arXiv:2304.02643, sections 7.3 and D.3).

evaluate.json   the settings, which a second call must share
masks/          the proposals of each picture, as COCO has results
pictures/       what was counted of each picture
proposals.json  the proposals of all pictures: a results file of COCO
objects.csv     a line for each object: the highest IoU of a proposal, and its score
worst.png       the pictures whose objects were found worst: what was missed
result.json     the numbers and the protocol; written last

Each local device works on a picture of its own, so that no mask depends on other pictures.
"""

import dataclasses
import functools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from esam_jax import files
from esam_jax.data.findings import Finding, Findings
from esam_jax.errors import DataError, MissingError
from esam_jax.evaluate import (
    average_recall,
    kept,
    matches,
    proposal_scores,
    published,
    results,
    truth_pictures,
)
from esam_jax.evaluate.average_recall import KINDS, Counts, Kind
from esam_jax.evaluate.ground_truth import Id, Truth
from esam_jax.evaluate.kept import Kept
from esam_jax.evaluate.protocol import size_of
from esam_jax.machine import out_of_memory
from esam_jax.ops import regions
from esam_jax.predict import devices
from esam_jax.predict.draw import Row
from esam_jax.predict.everything import album
from esam_jax.predict.sam import Sam
from esam_jax.predict.zero_shot import proposal_album, proposals
from esam_jax.predict.zero_shot.proposals import ProposalSettings
from esam_jax.words import counted

RESULT_FILE, PROPOSALS_FILE = "result.json", "proposals.json"
OBJECTS_FILE, WORST_FILE = "objects.csv", "worst.png"
MASKS_FOLDER = "masks"
_FILES = (RESULT_FILE, PROPOSALS_FILE, OBJECTS_FILE, WORST_FILE, f"{MASKS_FOLDER}/*", "*.svg")
_FOUND = 0.5  # the IoU from which an object of the sheet was not missed


@out_of_memory.advice()
def evaluate(
    sam: Sam,
    truth: Truth,
    settings: ProposalSettings,
    *,
    out: Path | None = None,
    model: str = "",
    images: int | None = None,
    points_per_batch: int = 64,
    sixteen_bit: Literal["upper_byte", "stretch"] = "upper_byte",
    progress: bool | None = None,
) -> dict[str, Any]:
    """The average recall of what a model proposes for the pictures that have an object.

    Result: what `proposal_scores.scored` gives (AR@1000, ARs, ..., `ar` and `box_ar`), `images`,
    `proposals` in all, `skipped` pictures, what was left out by the names of `KINDS` with
    `reasons`, `data` and `model_hash` (digests), `published`, `protocol`, `seconds`, `resumed`.
    `images`: so many of the pictures, drawn with seed 0. With `out` the files above are written,
    and a killed evaluation resumes. `progress` forces the bar on stderr on or off. PromptError for
    settings that are wrong or that the model cannot follow, ConfigError for `images` below 1.
    """
    begin = time.monotonic()
    settings.require(sam)
    about = {"data": truth.digest, "model_hash": album.digest(sam)}
    if out is not None:
        made_with = {**dataclasses.asdict(settings), "sixteen_bit": sixteen_bit, "images": images}
        kept.settle(out, {"task": "proposals", **made_with, **about}, _FILES)
        files.remove_unfinished(out / MASKS_FOLDER)
    order, store = truth_pictures.with_objects(truth, images), Kept(out, "0")
    work = _Work(truth, settings, out, points_per_batch, sixteen_bit)
    waiting = [each for each in order if not work.is_done(store, truth.pictures[each].number)]
    shared = devices.share(waiting, sam, work.on, count=len(waiting), ahead=3)
    for identity, content in truth_pictures.shown(shared, len(waiting), "proposals", progress):
        store.put(truth.pictures[identity].number, content)
    contents = {each: next(store.of([truth.pictures[each].number])) for each in order}
    good = {each: content for each, content in contents.items() if not content["broken"]}
    broken = [content["broken"] for content in contents.values() if content["broken"]]
    result: dict[str, Any] = {"task": "proposals", "model": model, **about}
    counts: dict[Kind, list[Counts]] = {
        kind: [content["counts"][kind] for content in good.values()] for kind in KINDS
    }
    result |= proposal_scores.scored(truth, counts)
    result |= {"images": len(good), "skipped": len(broken)}
    result["proposals"] = sum(content["proposals"] for content in good.values())
    findings = Findings(truth.findings)
    findings.add(Finding(*each) for content in good.values() for each in content["findings"])
    result |= truth_pictures.left_out(findings, broken)
    result["protocol"] = _words(settings, images)
    complete = len(truth.pictures) if images is None else len(order)
    result["published"] = published.proposals(truth.file, complete, len(broken))
    result |= {"seconds": round(time.monotonic() - begin, 1), "resumed": len(order) - len(waiting)}
    if out is not None:
        _write(work, out, good)
        files.write(out / RESULT_FILE, json.dumps(result, indent=1) + "\n")
    return result


def _words(settings: ProposalSettings, images: int | None) -> str:
    which = "all pictures" if images is None else f"{counted(images, 'picture')} drawn with seed 0"
    return (
        f"{which} that have an object; {settings.words()}; {proposal_scores.WORDS}. Broken "
        "pictures are left out."
    )


# ---------------------------------------------------------------------------------- one picture


@dataclasses.dataclass(frozen=True)
class _Work:
    """Proposes masks for one picture and counts them; may be called from any thread."""

    truth: Truth
    settings: ProposalSettings
    out: Path | None
    points_per_batch: int
    sixteen_bit: Literal["upper_byte", "stretch"]

    def file(self, number: int) -> Path:
        """Of the proposals of a picture, where there is a folder."""
        assert self.out is not None
        return self.out / MASKS_FOLDER / f"{number:08d}.json"

    def is_done(self, store: Kept, number: int) -> bool:
        """Whether a picture is counted, and its proposals are where they were written."""
        if number not in store:
            return False
        [content] = store.of([number])
        return self.out is None or bool(content["broken"]) or self.file(number).exists()

    @functools.cached_property
    def objects(self) -> dict[int, list[dict[str, Any]]]:
        return results.by_picture(self.truth.dataset["annotations"])

    @functools.cached_property
    def frequency_of(self) -> dict[int, str]:
        return proposal_scores.frequencies(self.truth)

    def on(self, sam: Sam, identity: Id) -> dict[str, Any]:
        """What is kept of a picture: counts and the closest proposal of each object, or what is
        wrong with it. Its proposals are written before."""
        listed, noted = self.truth.pictures[identity], []
        try:
            image = truth_pictures.read(self.truth, listed, self.sixteen_bit, noted)
        except (DataError, MissingError) as error:
            return {"broken": str(error)}
        records = proposals.proposals(
            sam, image, self.settings, name=listed.name, points_per_batch=self.points_per_batch
        )
        found = proposals.as_results(records, identity)
        if self.out is not None:
            proposal_album.write(self.file(listed.number), json.dumps(found))
        objects = self.objects[listed.number]
        return {
            "broken": None,
            "proposals": len(found),
            "counts": {
                kind: average_recall.of_picture(objects, found, kind, self.frequency_of)
                for kind in KINDS
            },
            "closest": _closest(objects, found),
            "findings": [[each.kind, each.text, each.count] for each in noted],
        }


def _closest(
    objects: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """For each object that is no crowd, the proposal of highest IoU: its place, that, its score."""
    real = [each for each in objects if not each["iscrowd"]]
    if not found:
        return [{"object": each["id"], "place": None, "iou": 0.0, "score": 0.0} for each in real]
    ious = average_recall.overlaps(found, real, "segm")
    places = ious.argmax(0).tolist()
    return [
        {
            "object": each["id"],
            "place": place,
            "iou": float(ious[place, i]),
            "score": found[place]["score"],
        }
        for i, (each, place) in enumerate(zip(real, places, strict=True))
    ]


# ----------------------------------------------------------------------------------------- files


def _write(work: _Work, out: Path, contents: Mapping[Id, Mapping[str, Any]]) -> None:
    """All files but the result."""
    truth = work.truth
    masks = {each: work.file(truth.pictures[each].number) for each in contents}
    proposal_album.merge(masks.values(), out / PROPOSALS_FILE)
    objects = {each["id"]: each for each in truth.dataset["annotations"]}
    rows = [
        {
            "picture": truth.pictures[identity].name,
            "object": objects[each["object"]]["source_id"],
            "category": objects[each["object"]]["category_id"],
            "area": objects[each["object"]]["area"],
            "size": size_of(objects[each["object"]]["area"]),
            "iou": each["iou"],
            "score": each["score"],
        }
        for identity, content in contents.items()
        for each in content["closest"]
    ]
    files.write(out / OBJECTS_FILE, matches.as_csv(rows))
    by_name = {truth.pictures[each].name: each for each in contents}
    drawn = [
        _row(work, by_name[name], mean, contents[by_name[name]]["closest"], objects)
        for name, mean in matches.worst(rows)
    ]
    titles = ("picture", "objects", "closest proposals", f"missed: IoU < {_FOUND:g}")
    files.write(out / WORST_FILE, matches.sheet(drawn, titles))


def _row(
    work: _Work,
    identity: Id,
    mean: float,
    closest: Sequence[Mapping[str, Any]],
    objects: Mapping[int, Mapping[str, Any]],
) -> Row:
    """A picture of the sheet, whose objects were found with this mean IoU."""
    listed = work.truth.pictures[identity]
    image = truth_pictures.read(work.truth, listed, work.sixteen_bit, [])
    found = json.loads(work.file(listed.number).read_text())
    shapes = [objects[each["object"]]["segmentation"] for each in closest]
    missed = [each["iou"] < _FOUND for each in closest]
    # Each object keeps its place in every set, by which it is coloured.
    nothing = regions.to_rle(np.zeros(image.shape[:2], bool))
    nearest = [
        nothing if each["place"] is None else found[each["place"]]["segmentation"]
        for each in closest
    ]
    sets = [
        shapes,
        nearest,
        [shape if gone else nothing for shape, gone in zip(shapes, missed, strict=True)],
    ]
    captions = [
        counted(len(closest), "object"),
        f"mean IoU {mean:.3f}",
        f"{sum(missed)} of {len(closest)}",
    ]
    return matches.row(listed.name, image, [], sets, captions)
