"""Text to mask, measured: the mask of everything that ranks first for the name of a category.

evaluate.json   the settings, which a second call must share
pictures/       what was measured of each picture, with the first and the closest mask of each text
masks.json      the first masks: a results file of COCO, scored by their cosine
pairs.csv       a line for each picture and category
best.png        the pairs whose first mask fits best, with their texts
worst.png       those whose first mask fits worst; of equals those where another mask fits better
result.json     the numbers and the protocol; written last

Each local device works on a picture of its own, so that no number depends on other pictures.
"""

import dataclasses
import functools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from esam_jax import files
from esam_jax.data.findings import Finding, Findings
from esam_jax.errors import DataError, MissingError
from esam_jax.evaluate import (
    kept,
    matches,
    published,
    results,
    text_protocol,
    text_scores,
    truth_pictures,
)
from esam_jax.evaluate.ground_truth import Id, Truth
from esam_jax.evaluate.kept import Kept
from esam_jax.evaluate.text_protocol import TextSettings
from esam_jax.machine import out_of_memory
from esam_jax.predict import devices
from esam_jax.predict.clip import Clip
from esam_jax.predict.draw import Row
from esam_jax.predict.everything import album
from esam_jax.predict.sam import Sam
from esam_jax.predict.zero_shot import text
from esam_jax.words import counted

RESULT_FILE, MASKS_FILE, PAIRS_FILE = "result.json", "masks.json", "pairs.csv"
BEST_FILE, WORST_FILE = "best.png", "worst.png"
_FILES = (RESULT_FILE, MASKS_FILE, PAIRS_FILE, BEST_FILE, WORST_FILE)
_TITLES = ("picture", "objects of the category", "first mask for its name", "closest mask")
_SHOWN = 12  # pairs of a sheet


@out_of_memory.advice()
def evaluate(
    sam: Sam,
    clip: Clip,
    truth: Truth,
    settings: TextSettings | None = None,
    *,
    out: Path | None = None,
    model: str = "",
    clip_model: str = "",
    images: int | None = None,
    sixteen_bit: Literal["upper_byte", "stretch"] = "upper_byte",
    progress: bool | None = None,
) -> dict[str, Any]:
    """How well names of categories find their objects among the masks of everything.

    Result: what `text_scores.summary` gives (`miou`, `union_miou`, `hits`, `oracle`, `chance`,
    `pairs`, `by_category`, `per_category`), `images`, `masks` that were compared in all, `nothing`
    (pictures without one), `skipped` pictures and other findings with `reasons`, `data`,
    `model_hash` and `clip_hash` (digests), `published`, `protocol`, `seconds`, `resumed`. `model`
    and `clip_model` are where they were read from. `images`: so many of the pictures that have an
    object, drawn with seed 0. With `out` the files above are written, and a killed evaluation
    resumes. `progress` forces the bar on stderr on or off.

    PromptError for settings that are wrong, ConfigError for `images` below 1, DataError for a name
    that is no text, and where no object is left.
    """
    begin = time.monotonic()
    settings = TextSettings() if settings is None else settings
    settings.require()
    order = truth_pictures.with_objects(truth, images)
    work = _Work(truth, settings, text_protocol.texts_of(truth, order, settings), sixteen_bit)
    about = {"data": truth.digest, "model_hash": album.digest(sam), "clip_hash": album.digest(clip)}
    made_with = {**settings.kept(sam), "sixteen_bit": sixteen_bit, "images": images}
    if out is not None:
        kept.settle(out, {"task": "text", **made_with, **about}, _FILES)
    store = Kept(out, "0")
    waiting = [each for each in order if truth.pictures[each].number not in store]
    shared = devices.share(waiting, _Models(sam, clip), work.on, count=len(waiting), ahead=3)
    for identity, content in truth_pictures.shown(shared, len(waiting), "text", progress):
        store.put(truth.pictures[identity].number, content)
    contents = {each: next(store.of([truth.pictures[each].number])) for each in order}
    rows = work.rows(contents)
    result: dict[str, Any] = {"task": "text", "model": model, "clip": clip_model, **about}
    result |= _counted(work, contents, rows)
    result |= {"published": published.texts()}
    result["protocol"] = text_protocol.words(settings, settings.generator(sam), images)
    result |= {"seconds": round(time.monotonic() - begin, 1), "resumed": len(order) - len(waiting)}
    if out is not None:
        _write(work, out, rows)
        files.write(out / RESULT_FILE, json.dumps(result, indent=1) + "\n")
    return result


def _counted(
    work: "_Work", contents: Mapping[Id, Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The means, and what they are of; DataError where every picture is broken."""
    broken = [content["broken"] for content in contents.values() if content["broken"]]
    good = [content for content in contents.values() if not content["broken"]]
    if not good:
        raise DataError(f"none of {counted(len(broken), 'picture')} could be read: {broken[0]}")
    names = {each["id"]: each["name"] for each in work.truth.dataset["categories"]}
    findings = Findings(work.truth.findings)
    findings.add(Finding(*each) for content in good for each in content["findings"])
    return {
        **text_scores.summary(rows, names, work.texts),
        "images": len(good),
        "skipped": len(broken),
        "masks": sum(content["scored"] for content in good),
        "nothing": sum(not content["scored"] for content in good),
        **truth_pictures.left_out(findings, broken),
    }


# ---------------------------------------------------------------------------------- one picture


@dataclasses.dataclass(frozen=True)
class _Models:
    """What finds masks and what compares them, on one device."""

    sam: Sam
    clip: Clip

    def on(self, device: jax.Device) -> "_Models":
        return _Models(self.sam.on(device), self.clip.on(device))


@dataclasses.dataclass(frozen=True)
class _Work:
    """Measures one picture; may be called from any thread."""

    truth: Truth
    settings: TextSettings
    texts: Mapping[int, str]  # by category
    sixteen_bit: Literal["upper_byte", "stretch"]

    @functools.cached_property
    def objects(self) -> dict[int, dict[int, list[dict[str, Any]]]]:
        """Those that are no crowds, by the number of their picture, then by category."""
        found: dict[int, dict[int, list[dict[str, Any]]]] = {}
        real = [each for each in self.truth.dataset["annotations"] if not each["iscrowd"]]
        for number, some in results.by_picture(real).items():
            found[number] = {}
            for each in sorted(some, key=lambda each: each["category_id"]):
                found[number].setdefault(each["category_id"], []).append(each)
        return found

    def on(self, models: _Models, identity: Id) -> dict[str, Any]:
        """What is kept of a picture: the scores of its pairs, or what is wrong with it."""
        listed, noted = self.truth.pictures[identity], []
        try:
            image = truth_pictures.read(self.truth, listed, self.sixteen_bit, noted)
        except (DataError, MissingError) as error:
            return {"broken": str(error)}
        objects = self.objects[listed.number]
        found = text.ranked(
            image,
            self.settings.generator(models.sam).generate(image),
            [self.texts[category] for category in objects],
            clip=models.clip,
            **self.settings.ranking(),
        )
        return {
            "broken": None,
            "scored": len(found.scored),
            "pairs": [
                text_scores.of_pair(found, i, some) for i, some in enumerate(objects.values())
            ],
            "findings": [[each.kind, each.text, each.count] for each in noted],
        }

    def rows(self, contents: Mapping[Id, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """All pairs of pictures that are not broken, each with its picture and its text."""
        return [
            {
                "picture": self.truth.pictures[identity].name,
                "image_id": identity,
                "text": self.texts[pair["category"]],
                **pair,
            }
            for identity, content in contents.items()
            for pair in content.get("pairs", ())
        ]


# ----------------------------------------------------------------------------------------- files


def _write(work: _Work, out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """All files but the result."""
    files.write(out / MASKS_FILE, json.dumps(text_scores.as_results(rows)))
    files.write(out / PAIRS_FILE, text_scores.as_csv(rows))
    best = sorted(rows, key=lambda row: (-row["iou"], row["picture"], row["category"]))
    # Of equals those first that are the ranking's fault: another mask fits the object.
    worst = sorted(
        rows, key=lambda row: (row["iou"], -row["oracle"], row["picture"], row["category"])
    )
    for name, ranked in ((BEST_FILE, best), (WORST_FILE, worst)):
        drawn = [_row(work, pair) for pair in ranked[:_SHOWN]]
        files.write(out / name, matches.sheet([each for each in drawn if each], _TITLES))


def _row(work: _Work, pair: Mapping[str, Any]) -> Row | None:
    """A pair of a sheet; None where its picture, which was measured before, is there no more."""
    listed = work.truth.pictures[pair["image_id"]]
    try:
        image = truth_pictures.read(work.truth, listed, work.sixteen_bit, [])
    except (DataError, MissingError):
        return None
    objects = work.objects[listed.number][pair["category"]]
    masks = [[each["segmentation"] for each in objects]]
    masks += [[] if pair[name] is None else [pair[name]] for name in ("best", "closest")]
    captions = [f"{pair['text']}: {pair['objects']}"]
    captions += [f"IoU {pair['iou']:.3f}", f"IoU {pair['oracle']:.3f}"]
    return matches.row(listed.name, image, [], masks, captions)
