"""Scales and cuts against detectron2's, colours against their formulas, masks against slow ones."""

import json
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from esam_jax.config import PromptedConfig
from esam_jax.data import views
from esam_jax.data.bitmaps import Bitmap
from esam_jax.data.pictures import Pixels
from esam_jax.data.records import Record
from esam_jax.data.views import augment, resize
from esam_jax.errors import ConfigError

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "lsj.json"
LSJ = json.loads(GOLDEN.read_text())


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("row", LSJ["rows"], ids=lambda row: f"{row['height']}x{row['width']}")
def test_scale_and_cut_are_those_of_detectron2(row):
    cut = augment.jitter(row["height"], row["width"], LSJ["size"], "pad", row["scale"], row["u"])
    assert list(cut.resized) == row["resized"]
    assert [cut.top, cut.left] == row["offset"]
    assert list(cut.seen) == row["cropped"]
    x0, y0, x1, y1 = row["box"]
    scale_y, scale_x = (new / old for new, old in zip(cut.resized, (row["height"], row["width"])))
    moved = [x0 * scale_x - cut.left, y0 * scale_y - cut.top]
    moved += [x1 * scale_x - cut.left, y1 * scale_y - cut.top]
    np.testing.assert_allclose(moved, row["box_after_unclipped"], atol=1e-6)


class Masks:
    """Two masks of a picture of 30 x 44 pixels."""

    def __init__(self):
        self.masks = np.zeros((2, 30, 44), bool)
        self.masks[0, 5:20, 8:30] = True
        self.masks[1, 10:29, 25:43] = rng(3).random((19, 18)) < 0.7

    def __len__(self):
        return 2

    def sample(self, index, grid):
        return Bitmap.of(self.masks[index][grid.rows][:, grid.columns])


def record(masks=None):
    rows, columns = np.mgrid[:30, :44]
    image = np.stack([rows * 8, columns * 5, rows * 0 + 90], -1).astype(np.uint8)
    return Record("x", Pixels(image), {"masks": masks or Masks()}), image


@given(st.integers(0, 2**20), st.sampled_from(["stretch", "pad"]), st.booleans())
def test_masks_go_where_their_pixels_go(seed, fit, flip):
    """Resized, mirrored and cut densely, mask by mask, with the numbers that the view draws."""
    kind = "horizontal" if flip else "none"
    config = PromptedConfig(
        image_px=32, masks=2, fit=fit, flip=kind, jitter=(0.3, 2.5), min_area_px=1, max_area=1.0
    )
    each, image = record()
    view = views.make(each, config, rng(seed))
    draws = rng(seed)
    mirrored = flip and draws.random() < 0.5
    cut = augment.draw_jitter(draws, 30, 44, 32, fit, (0.3, 2.5))
    height, width = cut.seen
    truth = Masks().masks[:, resize.nearest(30, cut.resized[0])]
    truth = truth[:, :, resize.nearest(44, cut.resized[1])]
    truth = truth[:, cut.top : cut.top + height, cut.left : cut.left + width]
    found = np.unpackbits(view["masks"], axis=-1).astype(bool)[view["valid"] > 0]
    if not truth.any():  # nothing is left of any: the complete picture is shown
        assert view["valid"].any()
        return
    truth = truth[:, :, ::-1] if mirrored else truth
    framed = np.zeros((2, 32, 32), bool)
    framed[:, :height, :width] = truth
    assert {x.tobytes() for x in found} == {x.tobytes() for x in framed if x.any()}
    enlarge = resize.two_taps if fit == "stretch" else resize.antialiased
    same = cut.resized == image.shape[:2]
    large = image if same else enlarge(image, *cut.resized)
    large = large[cut.top : cut.top + height, cut.left : cut.left + width]
    large = large[:, ::-1] if mirrored else large
    np.testing.assert_array_equal(view["image"][:height, :width], large)
    outside = np.ones((32, 32), bool)
    outside[:height, :width] = False
    assert (view["image"][outside] == (124, 116, 104)).all()


def test_without_augmentation_no_number_more_is_drawn():
    plain, twin = (
        views.make(record()[0], PromptedConfig(image_px=32, masks=2, **more), rng(5))
        for more in ({}, {"jitter": None, "colour": 0.0})
    )
    for name in plain:
        np.testing.assert_array_equal(plain[name], twin[name])


def test_a_cut_that_leaves_nothing_shows_the_complete_picture():
    class Corner(Masks):
        def __init__(self):
            super().__init__()
            self.masks[:] = False
            self.masks[:, :3, :3] = True

    config = PromptedConfig(image_px=32, masks=2, jitter=(4.0, 4.0), min_area_px=2, max_area=0.9)
    seen = [
        np.unpackbits(views.make(record(Corner())[0], config, rng(i))["masks"][0]).sum()
        for i in range(40)
    ]
    complete = PromptedConfig(image_px=32, masks=2, min_area_px=2)
    as_it_is = np.unpackbits(views.make(record(Corner())[0], complete, rng())["masks"][0]).sum()
    assert as_it_is in seen and max(seen) > 10 * as_it_is


def test_colours_follow_the_formulas():
    """Each change alone, by numbers: a blend with black, with the mean grey, with grey."""
    image = rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    grey = np.floor(image @ [0.299, 0.587, 0.114] + 0.5)

    def blended(other, factor):
        return np.clip(other + (image - other) * factor, 0, 255)

    picture = Image.fromarray(image)
    expected = (
        blended(0, 0.7),
        blended(np.floor(grey.mean() + 0.5), 1.3),
        blended(grey[..., None], 0.4),
    )
    for enhancer, factor, wanted in zip(augment._ENHANCERS, (0.7, 1.3, 0.4), expected):
        np.testing.assert_allclose(np.asarray(enhancer(picture).enhance(factor)), wanted, atol=1.5)


def test_hues_turn():
    pure = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]]], np.uint8)
    third = np.asarray(augment._turned(Image.fromarray(pure), 1 / 3)).astype(int)
    wanted = np.array([[[0, 255, 0], [0, 0, 255], [255, 0, 0], [90, 90, 90]]])
    assert np.abs(third - wanted).max() <= 8  # the wheel has 255 steps
    back = np.asarray(augment._turned(Image.fromarray(pure), 0.0)).astype(int)
    assert np.abs(back - pure).max() <= 2


def test_colours_change_within_their_strength():
    grey = np.full((4, 4, 3), 100, np.uint8)
    seen = np.stack([augment.recoloured(rng(i), grey, 0.3) for i in range(60)])[:, 0, 0, 0]
    # Brightness alone acts on one grey, whatever the order.
    assert 69 <= seen.min() < 80 and 120 < seen.max() <= 131
    image = rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    drawn = [augment.recoloured(rng(i), image, 0.3).tobytes() for i in range(20)]
    assert len(set(drawn)) == 20
    assert augment.recoloured(rng(3), image, 0.3).tobytes() == drawn[3]


@pytest.mark.parametrize("scales", [(0.0, 1.0), (1.0, 0.5), (0.5, 5.0)])
def test_scales_are_a_range(scales):
    with pytest.raises(ConfigError, match="jitter"):
        PromptedConfig(image_px=32, jitter=scales)
