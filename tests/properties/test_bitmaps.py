"""Masks of bits are the masks of booleans, on any grid, and so is what is drawn from them."""

import tracemalloc

import hypothesis.extra.numpy as hnp
import numpy as np
from helpers import slow_masks
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.data import prompts
from esam_jax.data.bitmaps import Bitmap, Grid
from esam_jax.data.views import resize
from esam_jax.ops import regions

masks = hnp.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 70)))
# Random pixels hardly ever make a run of several columns; rectangles do.
blocks = st.builds(
    lambda shape, a, b, inside: np.where(_block(shape, a, b), inside, not inside),
    st.tuples(st.integers(1, 40), st.integers(1, 70)),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.booleans(),
)
either = st.one_of(masks, blocks)


def _block(shape, a, b):
    mask = np.zeros(shape, bool)
    (y0, y1), (x0, x1) = (
        sorted(int(p * n) for p in pair) for pair, n in zip(zip(a, b), shape, strict=True)
    )
    mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask


@given(either)
def test_packing_inverts(mask: np.ndarray):
    found = Bitmap.of(mask)
    assert (found.dense() == mask).all() and found.height == len(mask)
    assert found.area() == mask.sum()


@given(either)
def test_boxes_and_pixels_are_those_of_the_mask(mask: np.ndarray):
    found, (rows, columns) = Bitmap.of(mask), np.nonzero(mask)
    inside = [(int(x), int(y)) for y, x in zip(rows, columns, strict=True)]
    assert [found.pixel(i) for i in range(len(inside))] == inside
    expected = (columns.min(), rows.min(), columns.max(), rows.max()) if inside else None
    assert found.box() == expected


@given(either, st.integers(1, 90), st.integers(1, 90), st.booleans())
def test_runs_resized_are_the_mask_resized(mask: np.ndarray, height: int, width: int, flip: bool):
    rows, columns = resize.nearest(len(mask), height), resize.nearest(mask.shape[1], width)
    grid = Grid(*mask.shape, rows, columns[::-1] if flip else columns)
    runs = np.array(regions.to_runs(mask)["counts"])
    expected = mask[rows][:, grid.columns]
    found = grid.place(runs)
    assert (found.dense() == expected).all()
    # What lies beyond the width is read by nobody as a pixel.
    assert found.area() == expected.sum()
    assert (Grid.whole(*mask.shape).place(runs).dense() == mask).all()


@given(either, st.data())
def test_runs_on_any_grid_are_the_mask_there(mask: np.ndarray, data: st.DataObject):
    height, width = mask.shape
    rows = sorted(data.draw(st.lists(st.integers(0, height - 1), min_size=1, max_size=20)))
    columns = data.draw(st.lists(st.integers(0, width - 1), min_size=1, max_size=80))
    grid = Grid(height, width, np.array(rows), np.array(columns))
    runs = np.array(regions.to_runs(mask)["counts"])
    assert (grid.place(runs).dense() == mask[rows][:, columns]).all()


def test_turns_of_a_column_that_comes_very_often_take_little_memory():
    """A picture that is one pixel wide, stretched: all its turns are in every column."""
    mask = np.random.default_rng(0).random((16_384, 1)) < 0.5
    grid = Grid(16_384, 1, resize.nearest(16_384, 640), resize.nearest(1, 160))
    runs = np.array(regions.to_runs(mask)["counts"])
    tracemalloc.start()
    found = grid.place(runs)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.dense() == mask[grid.rows][:, grid.columns]).all()
    assert most < 2**22


@given(masks, st.lists(st.tuples(st.integers(0, 99), st.integers(1, 2)), max_size=6))
def test_runs_of_no_length_change_nothing(mask: np.ndarray, extra: list[tuple[int, int]]):
    runs = regions.to_runs(mask)["counts"]
    for at, pairs in extra:
        place = at % len(runs)
        # Splitting a run by pairs of empty ones leaves the mask as it is.
        first = runs[place] // 2
        runs[place : place + 1] = [first, *[0] * (2 * pairs - 1), runs[place] - first]
    found = Grid.whole(*mask.shape).place(np.array(runs))
    assert (found.dense() == mask).all()


@given(masks.filter(np.any), st.integers(0, 2**32 - 1), st.floats(0, 5), st.floats(0, 50))
def test_prompts_are_those_of_the_mask(mask: np.ndarray, seed: int, share: float, max_px: float):
    noise = {"box_noise": share, "box_noise_max_px": max_px}
    slow = slow_masks.first_prompt(np.random.default_rng(seed), mask, **noise)
    rng = np.random.default_rng(seed)
    fast = prompts.first_prompt(rng, Bitmap.of(mask), box_share=0.5, **noise)
    assert (slow[0] == fast[0]).all() and (slow[1] == fast[1]).all()


@given(st.lists(either, max_size=6), st.integers(1, 90), st.integers(1, 90), st.data())
def test_masks_that_are_placed_together_are_those_placed_alone(
    drawn: list[np.ndarray], height: int, width: int, data: st.DataObject
):
    shape = drawn[0].shape if drawn else (5, 5)
    # As large as the first one, for they are masks of one picture.
    several = [np.resize(mask, shape) for mask in drawn]
    columns = data.draw(st.permutations(resize.nearest(shape[1], width).tolist()))
    grid = Grid(*shape, resize.nearest(shape[0], height), np.array(columns))
    runs = [np.array(regions.to_runs(mask)["counts"], np.int64) for mask in several]
    flat = np.concatenate([np.zeros(0, np.int64), *runs])
    found = grid.place_all(flat, np.array([len(each) for each in runs], np.int64))
    assert len(found) == len(several)
    for each, mask in zip(found, several, strict=True):
        assert (each.dense() == mask[grid.rows][:, grid.columns]).all()


@given(either, st.integers(0, 9), st.integers(0, 40))
def test_a_mask_is_put_into_the_corner_of_more_rows(mask: np.ndarray, more: int, bits: int):
    height, width = mask.shape
    grid = Grid.whole(height, width)
    runs = np.array(regions.to_runs(mask)["counts"])
    rows = np.zeros((height + more, -(-(width + bits) // 8)), np.uint8)
    grid.place(runs).put(rows)
    expected = np.pad(mask, ((0, more), (0, 8 * rows.shape[1] - width)))
    assert (np.unpackbits(rows, axis=1).view(bool) == expected).all()
