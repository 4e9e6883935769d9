"""Class-agnostic average recall of scored masks or boxes: the AR of object proposals.

Source: the greedy matching of pycocotools with `useCats=0`: in the order of the scores, each
detection takes the free object of highest IoU that reaches the threshold. AR@N is the share of
objects that the best N of a picture take, averaged over IoU .5, .55, ... .95. Crowds count neither
as objects nor against a detection, and all objects of a group are counted as if they were alone:
detections prefer real objects to ignored ones, so that recall is the same either way.

LVIS labels a category only in some of its pictures. That lowers the precision of what is right but
unlabelled, which is why its AP drops such detections; recall counts labelled objects alone. So all
of them count, each once and by the frequency of its category, and no detection is dropped.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from esam_jax.evaluate.protocol import MEDIUM_PX, SMALL_PX

Kind = Literal["segm", "bbox"]
KINDS: tuple[Kind, Kind] = ("segm", "bbox")
LIMITS = (10, 100, 1000)
THRESHOLDS = np.linspace(0.5, 0.95, 10)
# COCO's, by area in pixels; one at a border counts on both sides of it, as in pycocotools.
_AREAS = {"s": (0, SMALL_PX), "m": (SMALL_PX, MEDIUM_PX), "l": (MEDIUM_PX, 1e10)}
_FREQUENCIES = ("r", "c", "f")
_NOBODY = np.iinfo(np.int64).max

# For each group the number of its `objects`, and how many are `found`: [limits][thresholds].
Counts = Mapping[str, Mapping[str, Any]]


def takers(ious: Float[np.ndarray, "X Q"]) -> Int[np.ndarray, "_ Q"]:
    """At each threshold and for each object, the place of the detection that takes it.

    ious: of detections, best first, and objects. Of equal ones the later object is taken. A place
    beyond all others stands for nobody.
    """
    takes = np.full((len(THRESHOLDS), ious.shape[1]), _NOBODY)
    least = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]
    for place in np.flatnonzero((ious >= least[0]).any(1)):
        free = np.where((takes == _NOBODY) & (ious[place] >= least), ious[place], -1.0)
        best = ious.shape[1] - 1 - free[:, ::-1].argmax(1)
        found = np.flatnonzero(free.max(1) >= 0)
        takes[found, best[found]] = place
    return takes


def groups(
    objects: Sequence[Mapping[str, Any]], frequency_of: Mapping[int, str]
) -> dict[str, Bool[np.ndarray, " Q"]]:
    """Which objects are in each group: "" for all, s, m, l by area, r, c, f by frequency.

    The latter are left out where no category has a frequency.
    """
    areas = np.array([each["area"] for each in objects], float)
    found = {"": np.ones(len(objects), bool)}
    found |= {name: (areas >= least) & (areas <= most) for name, (least, most) in _AREAS.items()}
    if frequency_of:
        frequencies = np.array(
            [frequency_of.get(each["category_id"], "") for each in objects], "U1"
        )
        found |= {name: frequencies == name for name in _FREQUENCIES}
    return found


def ranked(detections: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """The best of one picture. Equal ones come by their category, then as they are given, which is
    pycocotools' order."""
    by_category = sorted(detections, key=lambda each: each["category_id"])
    return sorted(by_category, key=lambda each: -each["score"])[:most]


def overlaps(
    detections: Sequence[Mapping[str, Any]], objects: Sequence[Mapping[str, Any]], kind: Kind
) -> Float[np.ndarray, "X Q"]:
    """IoU of compressed run lengths, or of boxes (x, y, width, height)."""
    from pycocotools import mask as coco_mask

    if not detections or not objects:
        return np.zeros((len(detections), len(objects)))
    if kind == "bbox":
        found, true = (
            np.array([each["bbox"] for each in some], float) for some in (detections, objects)
        )
    else:
        found, true = ([each["segmentation"] for each in some] for some in (detections, objects))
    return np.asarray(coco_mask.iou(found, true, [0] * len(objects)), float)


def counts(
    ious: Float[np.ndarray, "X Q"],
    members: Mapping[str, Bool[np.ndarray, " Q"]],
    limits: Sequence[int] = LIMITS,
) -> Counts:
    """Of one picture: objects of each group, and how many of them are found within each limit."""
    found = {}
    for name, member in members.items():
        takes = takers(ious[:, member])
        matched = [(takes < limit).sum(1).tolist() for limit in limits]
        found[name] = {"objects": int(member.sum()), "found": matched}
    return found


def total(of_pictures: Iterable[Counts]) -> Counts:
    """The counts of all pictures together."""
    added: dict[str, dict[str, Any]] = {}
    for counted in of_pictures:
        for name, each in counted.items():
            if name not in added:
                added[name] = {"objects": 0, "found": 0}
            added[name]["objects"] += each["objects"]
            added[name]["found"] = np.asarray(each["found"]) + added[name]["found"]
    return added


def numbers(added: Counts, limits: Sequence[int] = LIMITS) -> dict[str, float]:
    """AR@N for each limit, and ARs, ARm, ARl, ARr, ARc, ARf with the last; -1 without an object."""
    recalls = {}
    for name, each in added.items():
        objects, means = each["objects"], np.mean(each["found"], 1)
        recalls[name] = (means / objects).tolist() if objects else [-1.0] * len(limits)
    overall = dict(zip((f"AR@{limit}" for limit in limits), recalls.pop(""), strict=True))
    return overall | {f"AR{name}": values[-1] for name, values in recalls.items()}


def of_picture(
    objects: Sequence[Mapping[str, Any]],
    detections: Sequence[Mapping[str, Any]],
    kind: Kind,
    frequency_of: Mapping[int, str],
    limits: Sequence[int] = LIMITS,
) -> Counts:
    """The counts of one picture; crowds among its objects are left out."""
    real = sorted(
        (each for each in objects if not each["iscrowd"]), key=lambda each: each["category_id"]
    )
    best = ranked(detections, max(limits))
    return counts(overlaps(best, real, kind), groups(real, frequency_of), limits)
