"""Clicks on objects: where the documented ways put them, compared with a search of every pixel."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from esam_jax.data.bitmaps import Bitmap
from esam_jax.evaluate import clicking
from esam_jax.typing import BACKGROUND, FOREGROUND

PAIRS = arrays.arrays(bool, st.tuples(st.just(2), st.integers(1, 12), st.integers(1, 14)))


def deepest(region: np.ndarray) -> set[tuple[int, int]]:
    """All pixels (x, y) of the region that are farthest from what is outside it."""
    outside = np.argwhere(~np.pad(region, 1)) - 1
    inside = np.argwhere(region)
    nearest = ((inside[:, None] - outside[None]) ** 2).sum(-1).min(1)
    return {(int(x), int(y)) for y, x in inside[nearest == nearest.max()]}


@given(PAIRS)
def test_the_next_click_is_deepest_in_the_larger_error(pair: np.ndarray):
    mask, found = pair
    missing, extra = mask & ~found, found & ~mask
    click = clicking.following(mask, found, [], background=True)
    if (mask == found).all():
        assert click is None
        return
    assert click is not None
    point, label = click
    larger = missing if missing.sum() >= extra.sum() else extra
    assert tuple(point.astype(int)) in deepest(larger)
    assert label == (FOREGROUND if larger is missing else BACKGROUND)


@given(PAIRS)
def test_without_background_points_it_is_deepest_in_what_is_missing(pair: np.ndarray):
    mask, found = pair
    assume(mask.any())
    clicked: list[np.ndarray] = []
    while click := clicking.following(mask, found, clicked, background=False):
        point, label = click
        x, y = point.astype(int)
        assert label == FOREGROUND and mask[y, x]
        if (mask & ~found).any():
            assert (x, y) in deepest(mask & ~found)
            break
        assert not any((point == other).all() for other in clicked)
        clicked.append(point)
    else:
        assert len(clicked) == mask.sum()  # nowhere is left


def test_uniform_clicks_lie_in_the_mask_and_fewer_are_the_first_of_more():
    mask = np.zeros((9, 7), bool)
    mask[2:5, 1:6] = True
    mask[7, 0] = True
    few, many = (clicking.uniform(np.random.default_rng(3), Bitmap.of(mask), n) for n in (2, 400))
    assert np.array_equal(few, many[:2])
    counts = np.zeros(mask.shape, int)
    for x, y in np.array(many, int):
        counts[y, x] += 1
    assert not counts[~mask].any()
    # 16 pixels, 25 clicks each: chi-square of 15 degrees of freedom is below 37.7 in 999 of 1000.
    assert ((counts[mask] - 25) ** 2 / 25).sum() < 37.7


@pytest.mark.parametrize("label", [FOREGROUND, BACKGROUND])
def test_a_worked_example(label: int):
    mask, found = np.zeros((2, 9, 12), bool)
    mask[1:6, 1:6] = True  # 25 pixels, the middle at (3, 3)
    found[1:8, 7:12] = True  # 35 pixels, the middle from (9, 3) to (9, 5)
    if label == FOREGROUND:
        found[3:8, 7:12] = False
    point, got = clicking.following(mask, found, [], background=True) or (None, None)
    assert got == label
    assert tuple(point) == ((3, 3) if label == FOREGROUND else (9, 3))
