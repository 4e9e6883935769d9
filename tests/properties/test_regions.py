"""Run lengths there and back, and no mask ever from runs that do not fill the picture."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from esam_jax.errors import DataError
from esam_jax.ops import regions

masks = hnp.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 23)))


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
