"""The square that CLIP sees: which sizes, which pixels, and strips that would fill the memory."""

import numpy as np
import pytest
from PIL import Image

from esam_jax.predict import centre_crop


def picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("height", "width"),
    [(40, 40), (31, 50), (77, 32), (32, 33), (32, 35), (500, 9), (9, 500), (1, 1)],
)
def test_the_square_of_torchvisions_steps(height, width):
    """Written out: resize(32, bicubic) to the shorter side, then the centre."""
    px, image = 32, Image.fromarray(picture(height, width))
    if width <= height:
        size = (px, int(px * height / width))
    else:
        size = (int(px * width / height), px)
    resized = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    top, left = (round((side - px) / 2.0) for side in resized.shape[:2])
    wanted = resized[top : top + px, left : left + px]
    found = centre_crop.square(picture(height, width), px)
    assert found.shape == (px, px, 3)
    if max(size) <= 16 * px:
        np.testing.assert_array_equal(found, wanted, strict=True)
    else:  # the same place, by way of another sum
        assert np.abs(found.astype(int) - wanted).max() <= 1


def test_a_picture_of_the_right_size_stays_as_it_is():
    np.testing.assert_array_equal(centre_crop.square(picture(24, 24), 24), picture(24, 24))


@pytest.mark.parametrize("shape", [(3, 60_000), (60_000, 3)])
def test_a_strip_is_resized_at_its_centre_alone(shape):
    found = centre_crop.square(picture(*shape), 224)
    assert found.shape == (224, 224, 3) and found.std() > 10
