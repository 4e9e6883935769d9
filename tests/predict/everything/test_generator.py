"""Segment everything: the original's results on a stand-in model, and the plain algorithm's."""

import collections
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import slow_regions
from PIL import Image

from esam_jax.data.sources import scene_painter
from esam_jax.errors import DataError, DeviceMemoryError, PromptError
from esam_jax.ops import geometry, grids, regions
from esam_jax.ops.positions import Taps
from esam_jax.predict import load
from esam_jax.predict.everything import search
from esam_jax.predict.everything.generator import AutomaticMaskGenerator
from esam_jax.predict.everything.presets import preset
from esam_jax.predict.everything.tally import Tally
from esam_jax.predict.full_size import Axes
from esam_jax.predict.prompt import Prompt
from esam_jax.predict.sam import Sam

CASES = json.loads((Path(__file__).parents[2] / "golden" / "everything.json").read_text())
SIDE = 1024
EXACT = ("area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box")


class StandIn(Sam):
    """The model of the golden cases: masks are discs around the click, of exact arithmetic."""

    def __init__(self) -> None:
        self.thresholds = {}

    def encode(self, images: Any) -> Any:
        return images.shape[:2]

    def candidates(self, embedding: Any, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        height, width = embedding
        logits, scores = zip(*(self._one(point, height, width) for point in points), strict=True)
        return np.stack(logits), np.stack(scores)

    def _one(self, point: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        scaled = geometry.to_model(point[None], height, width, SIDE, "pad")[0]
        new_height, new_width = geometry.longest_side(height, width, SIDE)
        back = scaled.astype(np.float64) * [width / new_width, height / new_height]
        x, y = np.round(4 * back) / 4
        k = (7 * int(x) + 13 * int(y)) % 37
        rows, columns = np.mgrid[:height, :width]
        distance = np.hypot(columns - x, rows - y)
        discs = ((5 + k % 4, 4 + 60 * (k % 2)), (11 + k % 7, 0.5 + k % 3), (23 + k % 5, 40))
        logits = np.stack([(radius - distance) * slope for radius, slope in discs])
        scores = [0.80 + 0.005 * ((k + 11 * j) % 37) for j in range(3)]
        return logits.astype(np.float32), np.array(scores, np.float32)


class OnStandIn(AutomaticMaskGenerator):
    """The stand-in answers at full size: nothing is left to enlarge."""

    def _passing(self, embedding: Any, points: np.ndarray) -> Iterator[search.Passing]:
        for first in range(0, len(points), 50):
            logits, scores = self.model.candidates(embedding, points[first : first + 50])
            which = np.flatnonzero(scores > np.float32(self.pred_iou_thresh))
            logits = logits.reshape(-1, *logits.shape[2:])[which]
            which += first * scores.shape[1]
            yield search.Passing(jnp.asarray(logits), which, scores, first)

    def _enlarging(self, crop: Any) -> Axes:
        x0, y0, x1, y1 = crop
        return Axes(*(Taps(np.arange(n)[:, None], np.ones((n, 1))) for n in (y1 - y0, x1 - x0)))


@pytest.mark.parametrize("case", CASES["generator"], ids=lambda case: case["name"])
def test_records_are_those_of_the_original(case: dict):
    generator = OnStandIn(StandIn(), **case["options"], output_mode="uncompressed_rle")
    records = generator.generate(np.zeros((*case["image_size"], 3), np.uint8))
    assert len(records) == len(case["records"])
    for got, wanted in zip(records, case["records"], strict=True):
        assert {key: got[key] for key in EXACT} == {key: wanted[key] for key in EXACT}
        for key in set(wanted) - set(EXACT):
            assert got[key] == wanted[key], key


def test_survivors_are_the_masks_before_they_are_run_lengths():
    case = next(each for each in CASES["generator"] if not each["options"].get("crop_n_layers"))
    generator = OnStandIn(StandIn(), **case["options"])
    image = np.zeros((*case["image_size"], 3), np.uint8)
    masks = [record["segmentation"] for record in generator.generate(image)]
    before = generator.tally
    [found] = generator.survivors(image)
    logits = [np.asarray(part.logits)[part.rows] for part in found.parts]
    scores = np.concatenate([part.scores for part in found.parts])
    inside = np.concatenate(logits)[np.argsort(-scores, kind="stable")] > 0
    assert len(masks) > 1 and (inside == masks).all()
    assert generator.tally == before and found.size == found.axes.size == image.shape[:2]


PICTURES = [(64, 64), (48, 80), (90, 50)]
# So loose that hundreds of masks are ranked and compared, good ones and bad ones.
LOOSE = {"points_per_side": 8, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.5}


@functools.cache
def model() -> Sam:
    """The trained network that ships: its masks are masks of things."""
    return load("quickstart_teacher")


@functools.cache
def picture(size: tuple[int, int], seed: int) -> np.ndarray:
    pixels = scene_painter.draw(seed, 64, split="heldout")[0]
    return np.asarray(Image.fromarray(pixels).resize(size[::-1]))


@functools.cache
def records(size: tuple[int, int] = (64, 64), seed: int = 0, **options: Any) -> list[dict]:
    return AutomaticMaskGenerator(model(), **{**LOOSE, **options}).generate(picture(size, seed))


def plain(size: tuple[int, int], seed: int) -> list[tuple[float, float, np.ndarray]]:
    """Every mask of every click at full size, then one rule after another, as first written."""
    height, width = size
    embedding = model().encode(picture(size, seed))
    found = []
    for point in grids.points(8) * [width, height]:
        masks = model().decode(embedding, [Prompt(points=[point])])
        for logits, score in zip(masks.logits[0], masks.scores[0], strict=True):
            if score <= 0.5 or not (logits > -1).any():
                continue
            stability = (logits > 1).sum() / (logits > -1).sum()
            if stability >= 0.5:
                x, y, wide, high = regions.mask_box(logits > 0)
                box = np.array([x, y, x + wide - 1, y + high - 1], np.float32)
                found.append((float(score), float(stability), logits > 0, box))
    found.sort(key=lambda item: -item[0])
    kept: list[Any] = []
    for item in found:
        if all(overlap(item[3], other[3]) <= 0.7 for other in kept):
            kept.append(item)
    return [item[:3] for item in kept]


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    wide, high = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    with np.errstate(invalid="ignore"):
        return float(np.float32(wide * high / (sum(areas) - wide * high)))


@pytest.mark.parametrize("seed", range(7))
@pytest.mark.parametrize("size", PICTURES)
def test_masks_are_those_of_the_plain_algorithm(size: tuple[int, int], seed: int):
    got, wanted = records(size, seed), plain(size, seed)
    assert len(got) == len(wanted) >= 3
    for record, (score, stability, mask) in zip(got, wanted, strict=True):
        np.testing.assert_allclose(record["predicted_iou"], score, rtol=1e-5)
        # A pixel may lie on a threshold to within rounding.
        assert abs(record["stability_score"] - stability) <= 1.5 / max(1, mask.sum())
        assert (record["segmentation"] != mask).sum() <= 1


def notebook(size: tuple[int, int], seed: int) -> list[tuple[np.ndarray, float, np.ndarray]]:
    """EfficientSAM's notebook, line by line: (click, score, mask) of what it draws."""
    height, width = size
    embedding, side = model().encode(picture(size, seed)), 8
    points = [[0.5 + i / side * width, 0.5 + j / side * height] for i, j in np.ndindex(side, side)]
    found = []
    for point in points:
        masks = model().decode(embedding, [Prompt(points=[point])])
        best = masks.scores[0].argsort(kind="stable")[::-1][0]
        logits, score = masks.logits[0, best], masks.scores[0, best]
        if score > 0.5 and (logits > -1).any() and (logits > 1).sum() / (logits > -1).sum() > 0.5:
            found.append((np.array(point), float(score), logits >= 0))
    cleaned = []
    for _, _, mask in found:
        whole, filled = slow_regions.without(mask, 12, "holes")
        whole, dropped = slow_regions.without(whole, 12, "islands")
        x, y, wide, high = regions.mask_box(whole)
        box = np.array([x, y, x + wide - 1, y + high - 1], np.float32)
        cleaned.append((whole, box, filled or dropped))
    order = sorted(range(len(found)), key=lambda i: cleaned[i][2])  # the untouched ones first
    kept: list[int] = []
    for i in order:
        if all(overlap(cleaned[i][1], cleaned[j][1]) <= 0.7 for j in kept):
            kept.append(i)
    return [(found[i][0], found[i][1], cleaned[i][0]) for i in kept]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", PICTURES)
def test_masks_are_those_of_efficientsams_notebook(size: tuple[int, int], seed: int):
    got = records(size, seed, **{**preset("efficientsam"), **LOOSE, "min_mask_region_area": 12})
    wanted = notebook(size, seed)
    assert len(got) == len(wanted) >= 3
    for record, (point, score, mask) in zip(got, wanted, strict=True):
        assert record["point_coords"] == [point.tolist()]
        np.testing.assert_allclose(record["predicted_iou"], score, rtol=1e-5)
        assert (record["segmentation"] != mask).sum() <= 1


def test_the_preset_is_the_notebooks_and_can_be_changed():
    generator = AutomaticMaskGenerator.efficientsam(model(), box_nms_thresh=0.6)
    assert generator.pred_iou_thresh == 0.7 and generator.stability_score_thresh == 0.9
    assert generator.min_mask_region_area == 100 and generator.box_nms_thresh == 0.6
    assert len(generator.point_grids[0]) == 1024


def test_the_preset_of_segment_anything_is_what_needs_no_naming():
    settings = vars(AutomaticMaskGenerator(StandIn()))
    assert all(settings[key] == value for key, value in preset("segment_anything").items())


@pytest.mark.parametrize("size", [(1, 1), (3, 40)])
def test_the_clicks_of_efficientsam_stay_in_a_tiny_picture(size: tuple[int, int]):
    AutomaticMaskGenerator.efficientsam(model()).generate(np.zeros((*size, 3), np.uint8))


def test_the_number_of_clicks_at_once_changes_nothing():
    few, many = records(points_per_batch=3), records()
    assert len(few) == len(many)
    for a, b in zip(few, many, strict=True):
        assert a["point_coords"] == b["point_coords"] and a["bbox"] == b["bbox"]
        np.testing.assert_array_equal(a["segmentation"], b["segmentation"])


def test_a_device_that_holds_few_masks_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(search, "_PASSING", 32)
    few, many = AutomaticMaskGenerator(model(), **LOOSE).generate(picture((64, 64), 0)), records()
    assert [record["point_coords"] for record in few] == [each["point_coords"] for each in many]
    for a, b in zip(few, many, strict=True):
        np.testing.assert_array_equal(a["segmentation"], b["segmentation"])


def test_the_three_forms_are_one_mask():
    modes = ("binary_mask", "uncompressed_rle", "coco_rle")
    forms = [records((48, 80), output_mode=mode) for mode in modes]
    for binary, runs, coco in zip(*forms, strict=True):
        mask = binary["segmentation"]
        assert mask.shape == (48, 80) and mask.sum() == binary["area"] > 0
        np.testing.assert_array_equal(regions.from_rle(runs["segmentation"]), mask)
        assert regions.to_rle(mask) == coco["segmentation"]


@pytest.mark.parametrize("size", PICTURES)
def test_stability_on_the_decoders_logits_is_close_to_that_at_full_size(size: tuple[int, int]):
    options = {"box_nms_thresh": 1.0, "stability_score_thresh": 0.0}
    full, low = records(size, **options), records(size, stability_rule="low_res", **options)
    assert len(full) == len(low) > 20
    pairs = list(zip(full, low, strict=True))
    assert all(a["bbox"] == b["bbox"] and a["area"] == b["area"] for a, b in pairs)
    apart = [abs(a["stability_score"] - b["stability_score"]) for a, b in pairs]
    assert np.median(apart) < 0.06  # of logits of 32 x 32 cells: the finer, the closer


def test_crops_find_what_is_small():
    """Four scenes in one picture are small in it and of their own size in crops.

    More is found than without crops, and every mask of a crop lies in it.
    """
    rows = [np.hstack([picture((64, 64), 2 * row + column) for column in (0, 1)]) for row in (0, 1)]
    four = np.vstack(rows)
    whole, found = (
        AutomaticMaskGenerator(model(), **LOOSE, crop_n_layers=layers).generate(four)
        for layers in (0, 1)
    )
    crops = {tuple(record["crop_box"]) for record in found}
    assert (0, 0, 128, 128) in crops and len(crops) == 5
    assert len(found) > len(whole)
    for record in found:
        x, y, wide, high = record["crop_box"]
        outside = record["segmentation"].copy()
        outside[y : y + high, x : x + wide] = False
        assert not outside.any()


def test_every_candidate_is_kept_or_counted():
    generator = AutomaticMaskGenerator(
        model(), **{**LOOSE, "crop_n_layers": 1, "min_mask_region_area": 12}
    )
    found = generator.generate(picture((90, 50), 0))
    tally = generator.tally
    assert tally.candidates == 5 * 64 * 3 == len(found) + sum(tally.dropped.values())
    assert tally.dropped["box_nms_thresh"] and tally.dropped["crop_n_layers"]
    generator.generate(picture((64, 64), 1))
    assert generator.tally.candidates == 5 * 64 * 3  # of the last call alone


def test_no_threshold_is_proposed_where_no_value_was_a_number():
    generator = AutomaticMaskGenerator(model())
    tally = Tally(3, collections.Counter({"stability_score_thresh": 3}))
    tally.see("stability_score_thresh", np.full(3, np.nan))  # of masks without a pixel: 0 of 0
    assert tally.remedy(generator) == "try more points, or another model"
    tally.see("stability_score_thresh", np.array([0.5, np.nan]))
    assert tally.remedy(generator) == "try --stability-score-thresh 0.49"


def test_small_holes_and_islands_are_gone():
    for record in records((90, 50), min_mask_region_area=12):
        mask = record["segmentation"]
        assert mask.sum() == record["area"]
        for part, small in ((mask, "islands"), (mask, "holes")):
            assert not slow_regions.without(part, 12, small)[1] or mask.sum() < 12


def test_nothing_good_enough_is_an_empty_list():
    assert records(pred_iou_thresh=1.0) == []


def test_a_threshold_that_no_mask_reaches_is_refused():
    with pytest.raises(PromptError, match=r"pred_iou_thresh is 2\.0, but must be at most 1"):
        records(pred_iou_thresh=2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points_per_side": None}, "exactly one"),
        ({"output_mode": "png"}, "output_mode is 'png'"),
        ({"stability_rule": "none"}, "stability_rule is 'none'"),
        ({"rules": "none"}, "rules is 'none'"),
        ({"points_per_batch": 0}, "points_per_batch is 0"),
        ({"points_per_side": 0}, "points_per_side is 0"),
        ({"crop_n_layers": -1}, "crop_n_layers is -1"),
        ({"crop_n_layers": 5}, "crop_n_layers is 5, but must be at most 4, with 341 crops"),
        ({"crop_n_layers": 10**100}, "crop_n_layers is 10"),
        ({"crop_n_points_downscale_factor": 0}, "crop_n_points_downscale_factor is 0"),
        ({"crop_overlap_ratio": np.nan}, "crop_overlap_ratio is nan"),
        ({"pred_iou_thresh": np.nan}, "pred_iou_thresh is nan"),
        ({"stability_score_offset": -1.0}, "stability_score_offset is -1.0"),
        ({"crop_overlap_ratio": 1.5}, "crop_overlap_ratio is 1.5, but must be from 0 to 0.9"),
        ({"crop_overlap_ratio": -0.5}, "crop_overlap_ratio is -0.5"),
        ({"min_mask_region_area": -5}, "min_mask_region_area is -5"),
        ({"box_nms_thresh": -1.0}, "box_nms_thresh is -1.0, but must be from 0 to 1"),
        ({"crop_nms_thresh": 2.0}, "crop_nms_thresh is 2.0"),
        ({"stability_score_thresh": 95.0}, "stability_score_thresh is 95.0"),
        ({"points_per_side": None, "point_grids": [np.zeros((0, 2))]}, "empty grid"),
        ({"points_per_side": None, "point_grids": [np.ones((2, 2))]}, "below 1"),
        (
            {"points_per_side": None, "point_grids": [np.zeros((2, 2))], "crop_n_layers": 1},
            "1 grids for 1 layers",
        ),
    ],
)
def test_a_wrong_argument_is_named(options: dict[str, Any], message: str):
    with pytest.raises(PromptError, match=message):
        AutomaticMaskGenerator(model(), **options)


def test_a_full_device_is_told_with_what_helps(monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    generator = AutomaticMaskGenerator(model(), **LOOSE)
    with monkeypatch.context() as patch:
        patch.setattr(generator, "_enlarging", full)
        with pytest.raises(DeviceMemoryError, match="points_per_batch"):
            generator.generate(picture((64, 64), 0))
    assert generator.generate(picture((64, 64), 0))  # the next call works


@pytest.mark.parametrize("image", [[[1, 2]], np.zeros((4, 5), np.uint8), np.zeros((4, 5, 3))])
def test_what_is_no_picture_is_named(image: Any):
    with pytest.raises(DataError, match="image"):
        AutomaticMaskGenerator(model(), 4).generate(image)
