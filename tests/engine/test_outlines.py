"""Polygons of masks: what COCO makes of them is the mask again."""

import hypothesis
import hypothesis.extra.numpy
import numpy as np
import pytest
from hypothesis import strategies

from esam_jax.engine import outlines
from esam_jax.ops import regions

SIZES = strategies.tuples(strategies.integers(1, 9), strategies.integers(1, 11))


@hypothesis.given(hypothesis.extra.numpy.arrays(bool, SIZES))
def test_every_form_is_the_mask_again(mask: np.ndarray):
    hypothesis.assume(mask.any())
    found = outlines.segmentation(regions.to_rle(mask))
    if isinstance(found, list):
        again = regions.from_polygons(found, *mask.shape)
    else:
        again = regions.from_rle(found)
    assert (again == mask).all()


def drawn(*rows: str) -> np.ndarray:
    return np.array([[letter == "#" for letter in row] for row in rows])


def test_outlines_have_no_more_points_than_corners():
    rectangle = drawn("......", ".####.", ".####.", "......")
    assert outlines.segmentation(regions.to_rle(rectangle)) == [[1, 1, 5, 1, 5, 3, 1, 3]]
    two = drawn("##....", "##..##", "....##")
    found = outlines.segmentation(regions.to_rle(two))
    assert sorted(map(len, found)) == [8, 8]


def test_parts_that_meet_at_a_corner_are_two():
    found = outlines.segmentation(regions.to_rle(drawn("##..", "##..", "..##", "..##")))
    assert sorted(map(tuple, found)) == [(0, 0, 2, 0, 2, 2, 0, 2), (2, 2, 4, 2, 4, 4, 2, 4)]


@pytest.mark.parametrize("rows", [("###", "#.#", "###"), ("####", "#.##", "##.#", "####")])
def test_a_mask_with_a_hole_stays_run_lengths(rows: tuple[str, ...]):
    rle = regions.to_rle(drawn(*rows))
    assert outlines.segmentation(rle) == rle


def test_large_masks_become_polygons():
    """Of discs, as of objects: the form is not given up where it is needed."""
    y, x = np.mgrid[:120, :160]
    disc = np.hypot(x - 70, y - 60) < 41.5
    assert isinstance(outlines.segmentation(regions.to_rle(disc)), list)
