"""Average precision of masks and boxes by their usual names; anybody's results without a model."""

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from esam_jax.data.findings import Findings
from esam_jax.evaluate import average_precision, truth_pictures
from esam_jax.evaluate.average_precision import Precision, Rules
from esam_jax.evaluate.ground_truth import Truth
from esam_jax.evaluate.results import Results


def of_results(
    truth: Truth, results: Results, rules: Rules, limit: int | None = None
) -> dict[str, Any]:
    """What `scored` gives for results of anybody's, with what it is of.

    That is `images`, of them `unanswered` ones, `masks` (entries that are used), what was left out
    by the names of `KINDS` with `reasons`, `data` and `results` (digests), `protocol` and
    `seconds`. A UserWarning says what was left out.
    """
    begin = time.monotonic()
    result: dict[str, Any] = {"task": "instances", "data": truth.digest, "results": results.digest}
    result |= scored(truth.dataset, results.entries, rules, masks=results.masks, limit=limit)
    result |= {"images": len(truth.pictures), "unanswered": results.unanswered(truth)}
    result["masks"] = len(results.entries)
    result |= truth_pictures.left_out(Findings((*truth.findings, *results.findings)), ())
    what = "mask" if results.masks else "box"
    result["protocol"] = f"anybody's results, scored: {words(what, rules, limit)}."
    return {**result, "seconds": round(time.monotonic() - begin, 1)}


def scored(
    dataset: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    rules: Rules,
    *,
    masks: bool = True,
    limit: int | None = None,
) -> dict[str, Any]:
    """AP, AP50, ... of the `masks`, or of boxes where there are none; -1 where there is no object.

    `iou_type` says which: "segm" or "bbox". `ap` and `box_ap` are those of both by the names of
    `average_precision`, `ap` None without masks; `by` is the package, `difference` that between
    pycocotools and hotcoco. `limit`: detections of a picture by the rules of LVIS.
    """
    kinds: tuple[Literal["segm", "bbox"], ...] = ("segm", "bbox") if masks else ("bbox",)
    found: dict[str, Precision] = {}
    for kind in kinds:
        if rules == "lvis":
            most = average_precision.LVIS_LIMIT if limit is None else limit
            found[kind] = average_precision.lvis(dataset, results, kind, most)
        else:
            found[kind] = average_precision.coco(dataset, results, kind)
    differences = [x.difference for x in found.values() if x.difference is not None]
    first = found[kinds[0]]
    return {
        **{re.sub(r"^AR(\d+)$", r"AR@\1", name): x for name, x in first.numbers.items()},
        "iou_type": kinds[0],
        "ap": dict(found["segm"].numbers) if masks else None,
        "box_ap": dict(found["bbox"].numbers),
        "by": first.by,
        **({"difference": max(differences)} if differences else {}),
    }


def words(what: Literal["mask", "box"], rules: Rules, limit: int | None = None) -> str:
    """Whose rules count, and which of them."""
    most = average_precision.LVIS_LIMIT if limit is None else limit
    scorer = {
        "coco": f"{what} AP by the rules of COCO, 100 detections a picture, crowds ignored",
        "lvis": f"{what} AP by the rules of LVIS, {most} detections a picture",
    }[rules]
    return f"{scorer}; -1 where there is no object"
