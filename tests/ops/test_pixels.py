"""A pixel of a region: against the list of its pixels."""

import jax
import numpy as np
import pytest
from helpers import tiny
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.ops import pixels

uniform = tiny.jit(pixels.uniform)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.02, 0.3, 1.0]))
def test_the_bits_count_out_a_pixel_in_reading_order(seed, share):
    rng = np.random.default_rng(seed)
    regions = rng.random((2, 3, 7, 11)) < share
    bits = rng.integers(0, 2**32, (2, 3), np.uint32)
    xy, some = uniform(bits, regions)
    assert np.array_equal(some, regions.any((-2, -1)))
    for i in np.ndindex(2, 3):
        inside = np.argwhere(regions[i])[:, ::-1]
        if len(inside):
            assert np.array_equal(xy[i], inside[bits[i] % len(inside)])
        assert 0 <= xy[i][0] < 11 and 0 <= xy[i][1] < 7


def test_each_pixel_has_the_same_chance():
    region = np.zeros((5, 9), bool)
    region[1, 2:5] = region[3, 0] = region[4, 8] = True
    bits = jax.random.bits(jax.random.key(0), (10_000,), np.uint32)
    xy, _ = uniform(bits, np.broadcast_to(region, (10_000, 5, 9)))
    _, counts = np.unique(np.asarray(xy), axis=0, return_counts=True)
    assert len(counts) == 5
    # Chi-square with 4 degrees of freedom: above 18.5 once in a thousand.
    assert ((counts - 2000) ** 2 / 2000).sum() < 18.5


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_lines_and_points(size):
    regions = np.ones((4, *size), bool)
    bits = np.uint32([0, 299, 2**31, 2**32 - 1])
    xy, some = uniform(bits, regions)
    assert some.all()
    area = size[0] * size[1]
    assert np.array_equal(np.asarray(xy).sum(-1), bits % area)
