"""Average precision of detections, by the reference packages: COCO's rules and LVIS's.

pycocotools counts for COCO. Where hotcoco is installed (the extra `eval`), its numbers are compared
with those, and LVIS's federated rules, which pycocotools does not have, are its own.
"""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import io
import json
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from esam_jax import files
from esam_jax.errors import MissingError

Kind = Literal["segm", "bbox"]
Rules = Literal["coco", "lvis"]

COCO_NAMES = (
    "AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"
)  # fmt: skip
LVIS_NAMES = (
    "AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf",
    "AR@300", "ARs@300", "ARm@300", "ARl@300",
)  # fmt: skip
LVIS_LIMIT = 300  # detections of a picture
_SAME = 1e-6  # difference up to which the two packages agree


@dataclasses.dataclass(frozen=True)
class Precision:
    """Numbers by their usual names, -1 for what has no object; which package gave them.

    `difference` is the largest one between pycocotools and hotcoco, where both ran.
    """

    numbers: Mapping[str, float]
    by: str
    difference: float | None = None


def coco(
    truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], kind: Kind
) -> Precision:
    """COCO's twelve numbers (100 detections a picture).

    `truth` is a data set of COCO whose annotations have different ids above 0, `detections` are
    results of COCO for its pictures and categories; neither is changed. A UserWarning where the two
    packages differ by more than 1e-6.
    """
    detections = _only(detections, kind)
    found: dict[str, float] = dict(
        zip(COCO_NAMES, _by_pycocotools(truth, detections, kind), strict=True)
    )
    difference = None
    if _has_hotcoco():
        other = _by_hotcoco(truth, detections, kind, lvis=False)
        difference = max(abs(found[name] - other[name]) for name in COCO_NAMES)
        if difference > _SAME:
            warnings.warn(
                f"pycocotools and hotcoco differ by {difference:g}: report it; the numbers are "
                "those of pycocotools",
                UserWarning,
                stacklevel=2,
            )
    return Precision(found, _version("pycocotools"), difference)


def lvis(
    truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    kind: Kind,
    limit: int = LVIS_LIMIT,
) -> Precision:
    """LVIS's thirteen numbers, as `coco`; MissingError without hotcoco.

    Pictures have `neg_category_ids` and `not_exhaustive_category_ids`, categories a `frequency`.
    Of each picture the best `limit` detections of all categories count, 300 at most; recalls are
    named for it, as "AR@300".
    """
    require_lvis()
    best = _best(_only(detections, kind), limit)
    found = _by_hotcoco(truth, best, kind, lvis=True)
    shown = {name: name.replace(f"@{LVIS_LIMIT}", f"@{limit}") for name in LVIS_NAMES}
    return Precision({shown[name]: found[name] for name in LVIS_NAMES}, _version("hotcoco"))


def _best(detections: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """The best of each picture, of equals the first."""
    pictures: dict[int, list[dict[str, Any]]] = {}
    for each in sorted(detections, key=lambda each: -each["score"]):
        pictures.setdefault(each["image_id"], []).append(each)
    return [each for found in pictures.values() for each in found[:limit]]


def require_lvis() -> None:
    """MissingError where hotcoco is not installed."""
    if not _has_hotcoco():
        raise MissingError(
            "AP of LVIS needs the package hotcoco, which is not installed: pip install "
            "'esam_jax[eval]', or add --annotations coco for the rules of COCO"
        )


def _only(detections: Sequence[Mapping[str, Any]], kind: Kind) -> list[dict[str, Any]]:
    """Copies without what is not compared: areas of masks would be taken from boxes."""
    other = "bbox" if kind == "segm" else "segmentation"
    return [{key: x for key, x in each.items() if key != other} for each in detections]


def _by_pycocotools(
    truth: Mapping[str, Any], detections: list[dict[str, Any]], kind: Kind
) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # Both note things in what they are given, and print.
    fresh: Any = {key: [dict(each) for each in truth[key]] for key in _TRUTH}
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = fresh
        reference.createIndex()
        if detections:
            results: Any = [dict(each) for each in detections]  # the stub knows files alone
            found: Any = reference.loadRes(results)
        else:  # which loadRes does not take
            found = COCO()
            found.dataset = {**fresh, "annotations": []}
            found.createIndex()
        evaluation: Any = COCOeval(reference, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(x) for x in evaluation.stats]


_TRUTH = ("images", "annotations", "categories")


def _by_hotcoco(
    truth: Mapping[str, Any], detections: list[dict[str, Any]], kind: Kind, *, lvis: bool
) -> dict[str, float]:
    import hotcoco

    package: Any = hotcoco
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        file = Path(folder) / "truth.json"
        files.write(file, json.dumps({key: truth[key] for key in _TRUTH}))
        reference = package.COCO(str(file))
        found = reference.load_res(detections)
        evaluation = package.COCOeval(reference, found, kind, lvis_style=lvis)
        evaluation.run()
        numbers = evaluation.get_results()
    if not lvis:
        return dict(zip(COCO_NAMES, map(float, np.asarray(evaluation.stats)), strict=True))
    return {name: float(x) for name, x in numbers.items()}


def _has_hotcoco() -> bool:
    return importlib.util.find_spec("hotcoco") is not None


def _version(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"
