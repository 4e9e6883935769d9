"""Class-agnostic AR: golden numbers, pycocotools' and those of a slow computation."""

import contextlib
import functools
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from esam_jax.evaluate import average_recall, results
from esam_jax.evaluate.average_recall import Kind
from esam_jax.ops import regions

_GOLDEN = {"small": "ARs", "medium": "ARm", "large": "ARl"}
_GOLDEN |= {"frequent": "ARf", "common": "ARc", "rare": "ARr"}


GOLDEN = Path(__file__).parents[1] / "golden"


def recall(truth: dict, detections: list[dict], kind: Kind, limits: list[int]) -> dict[str, float]:
    """Of data in COCO's form, all of whose masks are compressed."""
    objects = results.by_picture(truth["annotations"])
    found = results.by_picture(detections)
    frequencies = {x["id"]: x["frequency"] for x in truth["categories"] if "frequency" in x}
    counted = [
        average_recall.of_picture(some, found.get(picture, []), kind, frequencies, limits)
        for picture, some in objects.items()
    ]
    return average_recall.numbers(average_recall.total(counted), limits)


@pytest.mark.parametrize("kind", ["segm", "bbox"])
@pytest.mark.parametrize("case", ["coco_ap_a", "coco_ap_b", "lvis_a", "lvis_b"])
def test_recall_is_that_of_the_golden_cases(case: str, kind: Kind):
    data = json.loads((GOLDEN / f"{case}.json").read_text())
    for each in data["gt"]["annotations"]:  # crowds, and in LVIS none of them
        each.setdefault("iscrowd", 0)
    wanted = data["expected"][f"{kind}_class_agnostic"]
    for limit in {int(name[2:].split("_")[0]) for name in wanted}:
        found = recall(data["gt"], data["detections"], kind, [limit])
        for name, value in wanted.items():
            number, group = name.removeprefix("AR").split("_")
            if int(number) == limit:
                key = _GOLDEN.get(group, f"AR@{limit}")
                assert found[key] == pytest.approx(value, abs=1e-9), name
    assert len(wanted) >= 5


# ---------------------------------------------------------------------- any pictures, objects, ...

HEIGHT, WIDTH = 120, 130
# Few values, so that areas at borders, equal IoUs and equal scores occur.
sides = st.sampled_from([4, 8, 32, 96])
boxes = st.tuples(st.integers(0, 3), st.integers(0, 3), sides, sides)
frequency = st.sampled_from("rcf")


def shape(box: tuple[int, int, int, int]) -> dict[str, Any]:
    x, y, wide, high = box
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + high, x : x + wide] = True
    mask[0, 0] = True  # so that IoUs of masks and of boxes differ
    return {
        "segmentation": regions.to_rle(mask),
        "area": int(mask.sum()),
        "bbox": [float(side) for side in regions.mask_box(mask)],
    }


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict, list[dict]]:
    """Three pictures, the last without an object, and detections with equal scores among them."""
    objects, found = [], []
    for picture in (1, 2):
        for box in draw(st.lists(boxes, min_size=picture - 1, max_size=4)):
            about = {"id": len(objects) + 1, "image_id": picture, "iscrowd": draw(st.booleans())}
            about["iscrowd"] = int(about["iscrowd"] and draw(st.booleans()))
            objects.append({**about, "category_id": draw(st.integers(1, 3)), **shape(box)})
    for picture in (1, 2, 3):
        for box in draw(st.lists(boxes, max_size=6)):
            score = draw(st.integers(0, 3)) / 4
            about = {"image_id": picture, "category_id": draw(st.integers(1, 3)), "score": score}
            found.append({**about, **shape(box)})
    categories = [{"id": i, "name": str(i), "frequency": draw(frequency)} for i in (1, 2, 3)]
    images = [{"id": i, "height": HEIGHT, "width": WIDTH} for i in (1, 2, 3)]
    return {"images": images, "annotations": objects, "categories": categories}, found


def by_pycocotools(truth: dict, found: list[dict], kind: Kind) -> dict[str, float]:
    """Of all categories as one, with at most 1, 3 and 5 detections of a picture."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    other = "bbox" if kind == "segm" else "segmentation"
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = json.loads(json.dumps(truth))
        reference.createIndex()
        plain = [
            {key: x for key, x in each.items() if key not in (other, "area")} for each in found
        ]
        evaluation: Any = COCOeval(reference, reference.loadRes(plain), kind)
        evaluation.params.useCats, evaluation.params.maxDets = 0, [1, 3, 5]
        evaluation.evaluate()
        evaluation.accumulate()
    recalls = evaluation.eval["recall"]  # thresholds, categories, areas, limits
    means = {f"AR@{limit}": recalls[:, 0, 0, i] for i, limit in enumerate((1, 3, 5))}
    means |= {f"AR{name}": recalls[:, 0, i, 2] for i, name in enumerate("sml", 1)}
    return {name: float(x[x > -1].mean()) if (x > -1).any() else -1.0 for name, x in means.items()}


@settings(max_examples=60, deadline=None)
@given(cases())
@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_recall_is_that_of_pycocotools(kind: Kind, case: tuple[dict, list[dict]]):
    """With crowds, areas at a border, and equal scores and IoUs."""
    truth, found = case
    if not found:
        assert set(recall(truth, found, kind, [5]).values()) <= {0.0, -1.0}
        return
    got = recall(truth, found, kind, [1, 3, 5])
    for name, value in by_pycocotools(truth, found, kind).items():
        assert got.get(name, -1.0) == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize(("second", "wanted"), [((20, 20, 10, 10), 1.0), ((26, 20, 10, 10), 0.5)])
def test_of_objects_with_equal_ious_the_later_is_taken(second: Any, wanted: float):
    """By the first detection, so that the second finds its object free, or taken."""
    category = {"category_id": 1, "image_id": 1}
    objects = [
        {"id": i, "iscrowd": 0, **category, **shape(box)}
        for i, box in enumerate([(20, 20, 10, 10), (26, 20, 10, 10)], 1)
    ]
    found = [
        {"score": score, **category, **shape(box)}
        for score, box in ((0.9, (23, 20, 10, 10)), (0.8, second))
    ]
    truth = {
        "images": [{"id": 1, "height": HEIGHT, "width": WIDTH}],
        "annotations": objects,
        "categories": [{"id": 1, "name": "it"}],
    }
    ious = average_recall.overlaps(found, objects, "segm")
    assert ious[0, 0] == ious[0, 1] > 0.5
    taken = average_recall.takers(ious)
    assert (taken[0] < 2).mean() == wanted
    got = recall(truth, found, "segm", [1, 3, 5])
    for name, value in by_pycocotools(truth, found, "segm").items():
        assert got[name] == pytest.approx(value, abs=1e-12), name


def slow(truth: dict, found: list[dict], limit: int, of: Any) -> float:
    """Recall by the definition: one threshold, picture, detection and object after another."""
    recalls = []
    for level in np.linspace(0.5, 0.95, 10):
        taken = total = 0
        for image in truth["images"]:
            mine = [x for x in truth["annotations"] if x["image_id"] == image["id"]]
            free = [mask_of(x) for x in mine if not x["iscrowd"] and of(x)]
            total += len(free)
            chosen = [x for x in found if x["image_id"] == image["id"]]
            for each in sorted(chosen, key=lambda x: -x["score"])[:limit]:
                ious = [regions.iou(mask_of(each), x) for x in free]
                if ious and max(ious) >= level - 1e-12:
                    del free[int(np.argmax(ious))]
                    taken += 1
        recalls.append(taken / total if total else -1)
    return float(np.mean(recalls))


def mask_of(each: dict) -> np.ndarray:
    return _decoded(each["segmentation"]["counts"])


@functools.lru_cache(maxsize=512)
def _decoded(counts: str) -> np.ndarray:
    return regions.from_rle({"size": [HEIGHT, WIDTH], "counts": counts})


@settings(max_examples=25, deadline=None)
@given(cases())
def test_recall_is_that_of_a_slow_computation(case: tuple[dict, list[dict]]):
    """All scores differ, and all objects, so that there is one answer."""
    truth, found = case
    seen: set[str] = set()
    kept = []
    for each in truth["annotations"]:
        key = f"{each['image_id']} {each['segmentation']['counts']}"
        if key not in seen:
            kept.append(each)
        seen.add(key)
    truth["annotations"] = kept
    for i, each in enumerate(found):
        each["score"] += 0.001 * i
    assume(not any(_tied(truth, each) for each in found))
    got = recall(truth, found, "segm", [1, 3])
    frequency_of = {x["id"]: x["frequency"] for x in truth["categories"]}
    wanted = {"AR@1": slow(truth, found, 1, lambda x: True)}
    wanted["AR@3"] = slow(truth, found, 3, lambda x: True)
    wanted["ARs"] = slow(truth, found, 3, lambda x: x["area"] <= 32**2)
    wanted["ARl"] = slow(truth, found, 3, lambda x: x["area"] >= 96**2)
    for name in "rcf":
        wanted[f"AR{name}"] = slow(
            truth, found, 3, lambda x, name=name: frequency_of[x["category_id"]] == name
        )
    for name, value in wanted.items():
        assert got.get(name, -1.0) == pytest.approx(value, abs=1e-12), name


def _tied(truth: dict, each: dict) -> bool:
    """Whether a detection may take either of two objects."""
    ious = [
        regions.iou(mask_of(each), mask_of(x))
        for x in truth["annotations"]
        if x["image_id"] == each["image_id"] and not x["iscrowd"]
    ]
    reached = [x for x in ious if x >= 0.5]
    return len(set(reached)) < len(reached)
