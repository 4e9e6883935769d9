"""Saliency by the contrast of masks: its formula, and how it compares with the centre prior."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import nano
from PIL import Image

from esam_jax.data import decode
from esam_jax.evaluate import salient_scores
from esam_jax.predict.zero_shot import contrast
from esam_jax.predict.zero_shot.contrast import Centre, Contrast

DATA = Path(os.environ.get("ESAM_TEST_DATA", "absent"))


@pytest.mark.parametrize(
    ("rgb", "wanted"),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),  # of any table of sRGB in CIELAB, D65
        ((0, 128, 0), (46.23, -51.70, 49.90)),
        ((10, 10, 10), (2.74, 0, 0)),  # on the straight line near black
    ],
)
def test_colours_are_those_of_tables(rgb, wanted):
    found = contrast.lab(np.array([[rgb]], np.uint8))[0, 0]
    np.testing.assert_allclose(found, wanted, atol=0.02)


def slow_score(colours, prior, mask):
    """Pixel by pixel."""
    inside, outside = np.argwhere(mask), np.argwhere(~mask)
    reach = 1 + 0.5 * len(inside) ** 0.5
    near = [p for p in outside if np.hypot(*(inside - p).T).min() <= reach]
    mean = [np.mean([colours[y, x] for y, x in each], axis=0) for each in (inside, near)]
    height, width = mask.shape
    along = sum(y in (0, height - 1) or x in (0, width - 1) for y, x in inside)
    along /= len(inside) ** 0.5
    middle = np.mean([prior[y, x] for y, x in inside])
    size = min(1, len(inside) / (0.02 * mask.size))
    return np.sqrt(((mean[0] - mean[1]) ** 2).sum()) * middle * np.exp(-(along**2) / 2) * size


def test_score_is_that_of_a_slow_computation():
    rng = np.random.default_rng(0)
    colours, prior = rng.normal(size=(13, 17, 3)) * 40, contrast.centre(13, 17)
    for rows, columns in ((slice(3, 7), slice(5, 12)), (slice(0, 4), slice(2, 9)), (6, 8)):
        mask = np.zeros((13, 17), bool)
        mask[rows, columns] = True
        wanted = slow_score(colours, prior, mask)
        assert wanted > 0 and contrast.score(colours, prior, mask) == pytest.approx(wanted)


def test_what_stands_out_is_salient_and_what_reaches_along_the_border_is_not():
    picture = np.full((60, 80, 3), 90, np.uint8)
    middle, strip = np.zeros((2, 60, 80), bool)
    middle[20:40, 30:50], strip[:12] = True, True
    picture[middle] = picture[strip] = (200, 40, 40)
    found = contrast.of_masks(picture, [middle, strip, ~(middle | strip)])
    assert (found[middle] == 1).all() and found[strip].max() < 0.1
    assert found.dtype == np.float32 and found.shape == (60, 80)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (300, 2)])
def test_no_masks_and_constant_pictures_have_nothing_salient(size):
    grey = np.full((*size, 3), 7, np.uint8)
    nothing = np.zeros(size, np.float32)
    np.testing.assert_array_equal(contrast.of_masks(grey, []), nothing)
    masks = [np.zeros(size, bool), np.ones(size, bool), np.eye(*size, dtype=bool)]
    np.testing.assert_array_equal(contrast.of_masks(grey, masks), nothing)
    assert Centre()(grey).max() == 1


def test_centre_prior_is_symmetric_and_falls_outward():
    prior = contrast.centre(21, 30)
    np.testing.assert_array_equal(prior, prior[::-1, ::-1])
    assert prior.max() == 1 and (np.diff(prior[10, 15:]) < 0).all() and prior[0, 0] < 0.05


def test_constants_are_those_of_the_page(monkeypatch):
    """docs/zero_shot.md: half a half side; 16 x 16 clicks; colours at 160 pixels."""
    edge, middle = contrast.centre(1, 101)[0, [0, 50]]
    assert middle == 1 and edge == pytest.approx(np.exp(-((100 / 101 / 0.5) ** 2) / 2))
    assert len(Contrast(nano.sam("sam_nano")).generator.point_grids[0]) == 256
    seen = []
    monkeypatch.setattr(contrast, "score", lambda *arrays: seen.append(arrays) or 1.0)
    contrast.of_masks(np.zeros((100, 320, 3), np.uint8), [np.ones((100, 320), bool)])
    assert [each.shape[:2] for each in seen[0]] == [(50, 160)] * 3


def test_masks_are_those_of_everything():
    sam, picture = nano.sam("sam_nano"), nano.picture(40, 50)
    options = {"points_per_side": 2, "pred_iou_thresh": -9.0, "stability_score_thresh": 0.0}
    found = Contrast(sam, **options)
    masks = found.generator.generate(picture)
    assert masks
    wanted = contrast.of_masks(
        picture, [contrast.regions.from_rle(each["segmentation"]) for each in masks]
    )
    np.testing.assert_array_equal(found(picture), wanted)
    other = found.by(nano.sam("efficientsam_nano"))
    assert other.generator.model is not sam and found.generator.model is sam


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="ESAM_TEST_DATA names no folder with test pictures")
def test_with_the_masks_of_people_it_surpasses_the_centre_prior():
    """COCO panoptic: masks are all segments, what is salient all things. docs/zero_shot.md has
    the figures."""
    folder = DATA / "semseg" / "coco_panoptic"
    listed = json.loads((folder / "panoptic.json").read_text())
    things = {each["id"] for each in listed["categories"] if each["isthing"]}
    names = {each["id"]: each["file_name"] for each in listed["images"]}
    measured = {"contrast": [], "centre": []}
    for each in listed["annotations"]:
        picture = decode.read_rgb(folder / "images" / names[each["image_id"]])
        labels = np.asarray(Image.open(folder / "panoptic" / each["file_name"]).convert("RGB"))
        numbers = labels.astype(int) @ [1, 256, 65536]
        segments = [(numbers == x["id"], x["category_id"]) for x in each["segments_info"]]
        truth = np.any([mask for mask, category in segments if category in things], axis=0)
        maps = {"contrast": contrast.of_masks(picture, [mask for mask, _ in segments])}
        maps["centre"] = contrast.centre(*truth.shape)
        for name, found in maps.items():
            measured[name].append(salient_scores.of_picture(found, truth))
    ours, prior = (salient_scores.summary(measured[name]) for name in ("contrast", "centre"))
    assert len(measured["centre"]) == 14
    figures = {"max_f": 0.839, "mae": 0.187, "s_measure": 0.714}
    assert {name: round(ours[name], 3) for name in figures} == pytest.approx(figures, abs=2e-3)
    figures = {"max_f": 0.548, "mae": 0.400, "s_measure": 0.509}
    assert {name: round(prior[name], 3) for name in figures} == pytest.approx(figures, abs=2e-3)
