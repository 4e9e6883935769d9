"""What CLIP sees of an object, in each style."""

import numpy as np
import pytest
from helpers import nano
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.errors import PromptError
from esam_jax.predict.zero_shot import crops

MEAN = (123, 117, 104)  # of CLIP's pixels


def blob(height: int, width: int, rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[rows, columns] = True
    mask[rows.start, columns.start] = False  # no rectangle
    return mask


def test_a_white_frame_has_everything_in_the_box():
    picture, mask = nano.picture(30, 50), blob(30, 50, slice(4, 12), slice(20, 27))
    crop = crops.of_mask(picture, mask, "white_frame")
    assert crop.shape == picture.shape
    np.testing.assert_array_equal(crop[4:12, 20:27], picture[4:12, 20:27])
    outside = np.ones((30, 50), bool)
    outside[4:12, 20:27] = False
    assert (crop[outside] == 255).all()


def test_a_tight_crop_is_the_enlarged_square_around_the_box():
    picture, mask = nano.picture(40, 60), blob(40, 60, slice(14, 24), slice(20, 26))
    crop = crops.of_mask(picture, mask, "tight", enlarge=1.6)
    np.testing.assert_array_equal(crop, picture[11:27, 15:31])  # 10 * 1.6 around (23, 19)
    usual = crops.of_mask(picture, mask, "tight")
    assert usual.shape == (15, 15, 3)
    assert crops.of_mask(picture, mask, "tight", enlarge=1.55).shape == (16, 16, 3)  # half up


def test_a_square_moves_into_the_picture():
    picture, mask = nano.picture(40, 60), blob(40, 60, slice(0, 10), slice(55, 60))
    crop = crops.of_mask(picture, mask, "tight", enlarge=2.0)
    np.testing.assert_array_equal(crop, picture[:20, 40:])


def test_a_square_larger_than_the_picture_is_filled_up():
    picture, mask = nano.picture(10, 60), blob(10, 60, slice(2, 8), slice(4, 24))
    crop = crops.of_mask(picture, mask, "tight", enlarge=1.0)
    np.testing.assert_array_equal(crop[5:15], picture[:, 4:24])
    assert (crop[:5] == MEAN).all() and (crop[15:] == MEAN).all()
    black = crops.of_mask(picture, mask, "tight", enlarge=1.0, background="black")
    assert not black[:5].any()


@pytest.mark.parametrize(
    ("background", "colour"), [(None, MEAN), ("white", (255,) * 3), ("black", (0,) * 3)]
)
def test_a_cut_out_has_the_mask_alone(background, colour):
    picture, mask = nano.picture(40, 60), blob(40, 60, slice(14, 24), slice(20, 30))
    crop = crops.of_mask(picture, mask, "cut_out", 1.5, background)
    inside = mask[11:26, 17:32]
    np.testing.assert_array_equal(crop[inside], picture[11:26, 17:32][inside])
    assert (crop[~inside] == colour).all()


@given(st.data())
def test_every_square_shows_the_complete_box(data):
    height, width = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30))
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1 = data.draw(st.integers(x0 + 1, width))
    y1 = data.draw(st.integers(y0 + 1, height))
    enlarge = data.draw(st.floats(1, 2))
    picture = np.full((height, width, 3), 7, np.uint8)
    picture[y0:y1, x0:x1] = 200
    box = (x0, y0, x1 - x0, y1 - y0)
    crop = crops.square(picture, box, enlarge, (1, 1, 1))
    assert crop.shape[0] == crop.shape[1] <= 2 * max(box[2:]) + 1
    assert (crop == 200).all(-1).sum() == box[2] * box[3]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("middle", None, None), "crop_style is 'middle', but must be one of"),
        (("tight", 2.5, None), "enlarge is 2.5, but must be from 1 to 2"),
        (("tight", "a", None), "enlarge is 'a', but must be a finite number"),
        (("cut_out", None, "grey"), "background is 'grey', but must be one of"),
        (("white_frame", 1.5, None), "enlarge is 1.5, but the crop style white_frame"),
        (("white_frame", None, "mean"), "background is 'mean', but the crop style white_frame"),
    ],
)
def test_bad_arguments(given, message: str):
    with pytest.raises(PromptError, match=message):
        crops.require(*given)
