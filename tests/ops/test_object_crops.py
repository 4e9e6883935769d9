"""Squares around objects: exact to the pixel, zero outside, averages where they shrink."""

import jax.numpy as jnp
import numpy as np

from esam_jax.ops import object_crops


def squares(picture, box, enlarge, px):
    arrays = (jnp.asarray(each) for each in (picture, box, enlarge))
    return object_crops.squares(*arrays, px)


def test_a_square_is_cut_out_to_the_pixel():
    picture = np.random.default_rng(0).normal(size=(1, 20, 30, 2)).astype(np.float32)
    box = np.float32([[4, 6, 12, 12]])  # 8 wide, around (8, 9)
    crop = squares(picture, box, np.float32([1]), 8)
    np.testing.assert_allclose(crop[0], picture[0, 5:13, 4:12], atol=1e-6)
    twice = squares(picture, box, np.float32([2]), 16)
    np.testing.assert_allclose(twice[0], picture[0, 1:17, 0:16], atol=1e-6)


def test_a_square_is_zero_outside_the_picture():
    picture = np.ones((1, 10, 30, 1), np.float32)
    crop = squares(picture, np.float32([[5, 0, 25, 10]]), np.float32([1]), 20)
    assert not crop[0, :5].any() and not crop[0, 15:].any()
    np.testing.assert_allclose(crop[0, 5:15], 1, atol=1e-6)


def test_a_smaller_square_is_an_average_of_the_larger_one():
    picture = np.zeros((1, 32, 32, 1), np.float32)
    picture[0, ::2] = 1
    crop = squares(picture, np.float32([[0, 0, 32, 32]]), np.float32([1]), 8)
    np.testing.assert_allclose(crop[0, 1:-1, 1:-1], 0.5, atol=0.02)


def test_boxes_of_masks():
    masks = np.zeros((2, 9, 12), bool)
    masks[0, 2:5, 3:11] = True
    found = object_crops.boxes(jnp.asarray(masks))
    np.testing.assert_array_equal(found, [[3, 2, 11, 5], [0, 0, 12, 9]])
