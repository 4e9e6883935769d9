"""Average recall of proposals by its usual names; anybody's results without a model."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from esam_jax.data.findings import Findings
from esam_jax.evaluate import average_recall, published, results, truth_pictures
from esam_jax.evaluate.average_recall import KINDS, Counts, Kind
from esam_jax.evaluate.ground_truth import Truth
from esam_jax.evaluate.results import Results

WORDS = (
    "class-agnostic average recall: of each picture the best 10, 100 and 1000 by score take free "
    "objects greedily, the mean over IoU .50:.05:.95 of the share that is taken; small, medium and "
    "large by COCO's areas, rare, common and frequent by LVIS's categories, both of the best 1000; "
    "every labelled object counts and no proposal is dropped for its category; crowds are neither "
    "objects nor faults; -1 where there is no object"
)


def of_results(truth: Truth, found: Results) -> dict[str, Any]:
    """What `scored` gives for results of anybody's, with what it is of.

    That is `images`, of them `unanswered` ones, `proposals` (entries that are used), what was left
    out by the names of `KINDS` with `reasons`, `data` and `results` (digests), `published` numbers,
    `protocol` and `seconds`. A UserWarning says what was left out.
    """
    begin = time.monotonic()
    kinds: tuple[Kind, ...] = KINDS if found.masks else ("bbox",)
    objects = results.by_picture(truth.dataset["annotations"])
    entries = results.by_picture(found.entries)
    frequency_of = frequencies(truth)
    counted: dict[Kind, list[Counts]] = {
        kind: [
            average_recall.of_picture(some, entries.get(picture, []), kind, frequency_of)
            for picture, some in objects.items()
        ]
        for kind in kinds
    }
    result: dict[str, Any] = {"task": "proposals", "data": truth.digest, "results": found.digest}
    result |= scored(truth, counted)
    result |= {"images": len(truth.pictures), "unanswered": found.unanswered(truth)}
    result |= {"proposals": len(found.entries), "skipped": 0}
    result |= truth_pictures.left_out(Findings((*truth.findings, *found.findings)), ())
    result["protocol"] = f"anybody's results; {WORDS}."
    result["published"] = published.proposals(truth.file, len(truth.pictures), 0)
    return {**result, "seconds": round(time.monotonic() - begin, 1)}


def scored(truth: Truth, counted: Mapping[Kind, Iterable[Counts]]) -> dict[str, Any]:
    """AR@10, AR@100, AR@1000, ARs, ARm, ARl and, where categories have frequencies, ARr, ARc, ARf.

    They are of masks, or of boxes where the pictures are `counted` by boxes alone: `iou_type` says
    which. `ar` and `box_ar` are those of both, `ar` None without masks; `objects` is how many there
    are of all, s, m, l, r, c and f.
    """
    # Of a data set without any object, too, every number has its name.
    none = average_recall.of_picture([], [], "segm", frequencies(truth))
    added = {kind: average_recall.total([none, *each]) for kind, each in counted.items()}
    numbers = {kind: average_recall.numbers(each) for kind, each in added.items()}
    first: Kind = "segm" if "segm" in numbers else "bbox"
    return {
        **numbers[first],
        "iou_type": first,
        "ar": numbers.get("segm"),
        "box_ar": numbers["bbox"],
        "objects": {name or "all": each["objects"] for name, each in added[first].items()},
    }


def frequencies(truth: Truth) -> dict[int, str]:
    """The frequency of each category that has one."""
    categories = truth.dataset["categories"]
    return {each["id"]: each["frequency"] for each in categories if "frequency" in each}
