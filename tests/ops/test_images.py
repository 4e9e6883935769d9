"""Pixels: constants, stretching, pooling and packed masks."""

import jax.numpy as jnp
import numpy as np
import pytest

from esam_jax.ops import images


def test_normalise_takes_bytes_and_shares_alike():
    image = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
    found = images.normalise(jnp.asarray(image))
    shares = jnp.asarray(image / 255, jnp.float32)
    np.testing.assert_allclose(found, images.normalise(shares), atol=1e-6)
    # SAM's own constants, on the 0..255 scale.
    sam = (image - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
    np.testing.assert_allclose(found, sam, atol=1e-6)


@pytest.mark.parametrize("px", [4, 5, 23])
def test_stretch_is_torch_bilinear_without_antialias(px):
    torch = pytest.importorskip("torch", reason="compares with torch")
    image = np.random.default_rng(0).integers(0, 256, (2, 5, 17, 3), dtype=np.uint8)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255, (px, px), mode="bilinear"
    )
    found = images.stretch(jnp.asarray(image), px)
    np.testing.assert_allclose(found, expected.permute(0, 2, 3, 1).numpy(), atol=2e-6)


@pytest.mark.parametrize("size", [(6, 4), (2, 2), (4, 3), (5, 7)])
def test_area_pool_is_the_mean_over_each_rectangle(size):
    x = np.random.default_rng(0).normal(size=(2, 6, 4, 3)).astype(np.float32)
    # Slow and obvious: enlarge until both grids' borders fall between cells, then average blocks.
    fine = x.repeat(size[0], axis=1).repeat(size[1], axis=2)
    expected = fine.reshape(2, size[0], 6, size[1], 4, 3).mean((2, 4))
    np.testing.assert_allclose(images.area_pool(jnp.asarray(x), *size), expected, atol=1e-6)


def test_unpack_bits_undoes_packbits():
    mask = np.random.default_rng(0).random((2, 3, 5, 24)) > 0.5
    found = images.unpack_bits(jnp.asarray(np.packbits(mask, axis=-1)))
    assert found.dtype == bool
    np.testing.assert_array_equal(found, mask)


def test_as_picture_undoes_normalising():
    picture = jnp.asarray(np.arange(768, dtype=np.uint16).reshape(16, 16, 3) % 256, jnp.uint8)
    assert np.array_equal(images.as_picture(images.normalise(picture)), picture)
    assert images.as_picture(jnp.full((1, 1, 3), 9.0)).tolist() == [[[255] * 3]]
    assert images.as_picture(jnp.full((1, 1, 3), -9.0)).tolist() == [[[0] * 3]]
