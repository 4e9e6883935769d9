"""Pictures to the model input and masks back, against torch's own resampling step by step."""

import numpy as np
import pytest
from helpers import nano, tiny

from esam_jax.ops import geometry
from esam_jax.predict import frames

SIZES = ((40, 40), (23, 61), (97, 34), (3, 40))
LOGITS = np.random.default_rng(0).normal(size=(2, 3, 20, 20)).astype(np.float32)


def interpolate(x_HW, size, mode):
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(np.ascontiguousarray(x_HW))[None]
    return torch.nn.functional.interpolate(x, size, mode=mode, align_corners=False)[0].numpy()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_efficientsam_stretches_pictures_and_masks(height, width):
    config, picture = tiny.config("efficientsam"), nano.picture(height, width)
    expected = interpolate(picture.transpose(2, 0, 1) / np.float32(255), (40, 40), "bilinear")
    expected = expected.transpose(1, 2, 0) - np.float32([0.485, 0.456, 0.406])
    expected /= np.float32([0.229, 0.224, 0.225])
    np.testing.assert_allclose(frames.to_input(picture, config), expected, atol=2e-5)
    masks = interpolate(LOGITS[0], (height, width), "bicubic")
    got = frames.to_original(LOGITS, height, width, config)
    assert got.shape == (2, 3, height, width)
    np.testing.assert_allclose(got[0], masks, atol=3e-5)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_sam_pads_pictures_and_takes_masks_through_the_input(height, width):
    config, picture = tiny.config("sam"), nano.picture(height, width)
    inner = geometry.longest_side(height, width, 40)
    pixels = np.asarray(frames.to_input(picture, config))
    assert pixels.shape == (40, 40, 3) and max(inner) == 40
    assert not pixels[inner[0] :].any() and not pixels[:, inner[1] :].any()
    enlarged = interpolate(LOGITS[0], (40, 40), "bilinear")[:, : inner[0], : inner[1]]
    masks = interpolate(enlarged, (height, width), "bilinear")
    got = frames.to_original(LOGITS, height, width, config)
    assert got.shape == (2, 3, height, width)
    np.testing.assert_allclose(got[0], masks, atol=3e-5)


def test_a_picture_of_the_input_size_is_only_normalised():
    picture = nano.picture(40, 40)
    inputs = [np.asarray(frames.to_input(picture, tiny.config(kind))) for kind in tiny.WIRINGS]
    for pixels in inputs:
        bytes_back = (pixels * [0.229, 0.224, 0.225] + [0.485, 0.456, 0.406]) * 255
        np.testing.assert_array_equal(np.round(bytes_back), picture)
