"""Run lengths there and back, and no mask ever from runs that do not fill the picture."""

from typing import Any, Literal

import hypothesis.extra.numpy as hnp
import jax
import numpy as np
import pytest
from helpers import slow_regions
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from scipy import ndimage

from esam_jax.errors import DataError
from esam_jax.ops import bits, regions, small_regions

masks = hnp.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 23)))
# Heights about those of one, two and three words of 32 rows; few shapes, since each is compiled.
batches = st.sampled_from(
    [(1, 1, 1), (3, 31, 5), (2, 32, 4), (4, 33, 1), (2, 64, 3), (1, 70, 9)]
).flatmap(lambda shape: hnp.arrays(bool, shape))
_turns = jax.jit(lambda batch: bits.turns(bits.pack(batch)))


@given(masks)
def test_run_lengths_invert(mask: np.ndarray):
    rle = regions.to_rle(mask)
    assert (regions.from_rle(rle) == mask).all()


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools on NumPy 2
@given(masks)
def test_agrees_with_pycocotools_on_valid_input(mask: np.ndarray):
    rle = regions.to_rle(mask)
    assert (coco_mask.decode(rle).astype(bool) == regions.from_rle(rle)).all()
    box = coco_mask.toBbox(rle)
    assert not mask.any() or regions.mask_box(mask) == tuple(box)


@given(masks, masks)
def test_overlap_is_that_of_pycocotools(first: np.ndarray, second: np.ndarray):
    height, width = np.minimum(first.shape, second.shape)
    first, second = first[:height, :width], second[:height, :width]
    if (first | second).any():
        rles = [regions.to_rle(first)], [regions.to_rle(second)]
        assert np.isclose(regions.iou(first, second), coco_mask.iou(*rles, [0])[0, 0])


@given(st.lists(st.integers(-3, 30), max_size=12))
def test_plain_runs_give_a_full_mask_or_an_error(counts: list[int]):
    try:
        mask = regions.from_rle({"size": [4, 6], "counts": counts})
    except DataError:
        assert sum(counts) != 24 or min(counts) < 0
    else:
        assert mask.shape == (4, 6) and mask.dtype == bool
        assert mask.sum() == sum(counts[1::2])


@given(st.one_of(st.text(max_size=30), st.binary(max_size=30)))
def test_any_text_gives_a_full_mask_or_an_error(counts: str | bytes):
    try:
        mask = regions.from_rle({"size": [4, 6], "counts": counts})
    except DataError:
        return
    assert mask.shape == (4, 6) and mask.dtype == bool
    assert set(np.unique(mask.view(np.uint8))) <= {0, 1}


@given(batches)
def test_runs_found_on_a_device_are_those_of_the_host(batch: np.ndarray):
    _, height, width = batch.shape
    found = bits.runs(np.asarray(_turns(batch))[:, None], 1, height, 0, 0, height, width)
    assert [runs.tolist() for runs in found] == [regions.to_runs(mask)["counts"] for mask in batch]


@given(batches, st.tuples(*[st.integers(0, 3)] * 4))
def test_runs_of_a_crop_are_those_of_the_whole_picture(
    batch: np.ndarray, margins: tuple[int, int, int, int]
):
    left, above, right, below = margins
    whole = np.pad(batch, ((0, 0), (above, below), (left, right)))
    turns = np.asarray(_turns(batch))[:, None]
    found = bits.runs(turns, 1, batch.shape[1], left, above, *whole.shape[1:])
    assert [runs.tolist() for runs in found] == [regions.to_runs(mask)["counts"] for mask in whole]


@given(masks, st.integers(0, 60), st.sampled_from(["holes", "islands"]))
def test_small_regions_are_those_of_the_filled_mask(
    mask: np.ndarray, area: int, kind: Literal["holes", "islands"]
):
    got, changed = slow_regions.without(mask, area, kind)
    wanted = plain_without_small(mask, area, kind)
    np.testing.assert_array_equal(got, wanted)
    assert changed == any(part.sum() < area for part in parts(mask ^ (kind == "holes")))


@given(masks)
def test_the_box_of_runs_is_that_of_the_filled_mask(mask: np.ndarray):
    x, y, wide, high = regions.mask_box(mask)
    wanted = (x, y, x + wide - 1, y + high - 1) if wide else (0, 0, 0, 0)
    [box] = small_regions.boxes([np.array(regions.to_runs(mask)["counts"])], len(mask))
    assert tuple(box) == wanted


@given(batches, st.integers(0, 9), st.sampled_from(["holes", "islands"]))
def test_masks_side_by_side_do_not_see_each_other(
    batch: np.ndarray, area: int, kind: Literal["holes", "islands"]
):
    height, runs = batch.shape[1], [np.array(regions.to_runs(mask)["counts"]) for mask in batch]
    found, changed = small_regions.without_small(runs, height, area, kind)
    boxes = small_regions.boxes(runs, height)
    for i, each in enumerate(runs):
        [alone], [touched] = small_regions.without_small([each], height, area, kind)
        assert found[i].tolist() == alone.tolist() and changed[i] == touched
        assert boxes[i].tolist() == small_regions.boxes([each], height)[0].tolist()


def plain_without_small(
    mask: np.ndarray, area: int, kind: Literal["holes", "islands"]
) -> np.ndarray:
    found = parts(mask ^ (kind == "holes"))
    small = [part for part in found if part.sum() < area]
    if kind == "holes":
        return mask | np.any([np.zeros_like(mask), *small], axis=0)
    kept = [part for part in found if part.sum() >= area] or (
        found and [max(found, key=lambda part: part.sum())]
    )
    return np.any([np.zeros_like(mask), *kept], axis=0)


def parts(mask: np.ndarray) -> list[np.ndarray]:
    """Its 8-connected parts, in order of their first pixel row by row."""
    labelled: Any = ndimage.label(mask, np.ones((3, 3), int))
    labels, count = labelled
    return [labels == i + 1 for i in range(count)]
