"""Rectangles against slices of arrays; noise in them, and nowhere else."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.ops import rectangles

EDGE = st.integers(0, 9)


@given(boxes=st.lists(st.tuples(EDGE, EDGE, EDGE, EDGE), min_size=1, max_size=4))
def test_inside_is_a_slice(boxes):
    wanted = np.zeros((len(boxes), 7, 9, 1), bool)
    for picture, (top, left, bottom, right) in zip(wanted, boxes, strict=True):
        picture[top:bottom, left:right] = True
    assert np.array_equal(rectangles.inside(jnp.asarray(boxes), 7, 9), wanted)


def test_everything_is_every_pixel_of_a_large_picture():
    assert rectangles.inside(jnp.asarray(rectangles.EVERYTHING)[None], 1, 16_384).all()


def test_noise_is_standard_normal_and_lies_inside_alone():
    pixels = jnp.full((2, 60, 50, 3), 7.0)
    boxes, seeds = jnp.array([[10, 5, 55, 45], [0, 0, 0, 0]]), jnp.array([[1, 2], [1, 2]], "uint32")
    first, second = np.asarray(rectangles.erased(pixels, boxes, seeds))
    assert (second == 7).all()
    inside = first[10:55, 5:45]
    assert (first == 7).sum() == (60 * 50 - 45 * 40) * 3
    assert abs(inside.mean()) < 0.05 and abs(inside.std() - 1) < 0.05
    # Each pixel and each colour has its own.
    assert len(np.unique(inside)) > 0.99 * inside.size


def test_noise_is_that_of_a_pictures_own_seed():
    """Whatever lies beside it in the batch."""
    pixels, whole = jnp.zeros((3, 8, 6, 3)), jnp.tile(rectangles.EVERYTHING, (3, 1))
    seeds = jnp.array([[1, 2], [1, 3], [1, 2]], "uint32")
    one, other, again = rectangles.erased(pixels, whole, seeds)
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    alone = rectangles.erased(pixels[:1], whole[:1], seeds[1:2])
    assert np.array_equal(alone[0], other)
