"""Blocks are left out as often as the rate says, and what is kept makes up for it."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esam_jax.ops import drop_path

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "classification_a.npz")


@pytest.mark.parametrize(("rate", "depth"), [(0.1, 12), (0.2, 24)])
def test_chances_are_those_of_timm(rate, depth):
    """Of a branch that is kept: its scale is 1 over the chance of that."""
    kept = np.asarray(drop_path.scales(jnp.ones((1, depth, 2)), rate))
    wanted = 1 / (1 - GOLDEN[f"droppath/rates_{rate}_{depth}"])
    np.testing.assert_allclose(kept, np.tile(wanted[:, None, None], 2), rtol=1e-6)


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_chances_rise_evenly_and_the_mean_stays(rate):
    depth, images = 5, 20_000
    drawn = jax.random.uniform(jax.random.key(3), (images, depth, 2))
    scales = np.asarray(drop_path.scales(drawn, rate))
    assert scales.shape == (depth, images, 2)
    expected = rate * np.arange(depth) / (depth - 1)
    np.testing.assert_allclose((scales == 0).mean(1), np.tile(expected[:, None], 2), atol=0.012)
    np.testing.assert_allclose(scales.mean(1), 1, atol=0.02)
    for kept, chance in zip(scales, expected, strict=True):
        np.testing.assert_allclose(kept[kept > 0], 1 / (1 - chance), rtol=1e-6)


def test_numbers_belong_to_their_image_and_block():
    drawn = jnp.array([[[0.9, 0.1], [0.9, 0.9]], [[0.0, 0.0], [0.1, 0.6]]])
    found = np.asarray(drop_path.scales(drawn, 0.5))
    np.testing.assert_array_equal(found, [[[1, 1], [1, 1]], [[2, 2], [0, 2]]])


def test_one_block_is_never_left_out():
    assert (np.asarray(drop_path.scales(jnp.zeros((3, 1, 2)), 0.5)) == 1).all()
