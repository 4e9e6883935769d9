"""Run lengths, polygons, boxes and overlap, with pycocotools as the judge on valid input."""

import json
import subprocess
import sys
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from helpers import slow_regions
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from esam_jax.errors import DataError
from esam_jax.ops import regions

# 3 rows, 4 columns, read column by column: 0 0 1 | 1 1 0 | 0 0 0 | 1 1 1
MASK = np.array([[0, 1, 0, 1], [0, 1, 0, 1], [1, 0, 0, 1]], bool)
COUNTS = [2, 3, 4, 3]


def test_runs_go_down_the_columns_and_start_outside():
    assert (regions.from_rle({"size": [3, 4], "counts": COUNTS}) == MASK).all()


def test_text_form_is_that_of_pycocotools():
    theirs = coco_mask.encode(np.asfortranarray(MASK, np.uint8))["counts"].decode()
    assert regions.to_rle(MASK) == {"size": [3, 4], "counts": theirs}


def test_long_runs_and_backward_differences():
    mask = np.zeros((1500, 2250), bool)
    mask[100:1400, 7:2000] = True
    mask[3, 5] = mask[1499, 2249] = True
    rle = regions.to_rle(mask)
    assert (regions.from_rle(rle) == mask).all()


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ([2, 3, 4], "sum to 9"),
        ([2, 3, 4, 4], "sum to 13"),
        ([14, -2], "0 to 12"),
        ([2**33, 3], "0 to 12"),
        ([6.0, 6.0], "integers"),
        ([True] * 12, "integers"),
        ([0] * 40 + [12], "at most 24"),
        ([], "sum to 0"),
        (None, "NoneType"),
        ("", "inside a number"),
        ("o", "inside a number"),  # the continuation bit is set, and nothing follows
        ("\x7f", "alphabet"),
        ("é", "ASCII"),
        ("oooooooo0", "32 bits"),
        ("O", "0 to 12"),  # -1
        ("0" * 99, "characters"),
    ],
)
def test_broken_runs_are_refused(counts: object, reason: str):
    with pytest.raises(DataError, match=reason):
        regions.from_rle({"size": [3, 4], "counts": counts})


@pytest.mark.parametrize(
    "size", [None, [3], [0, 4], [-3, 4], [3.0, 4], [200_000, 4], [16384, 16384], "34", [True, 12]]
)
def test_broken_sizes_are_refused_before_anything_is_allocated(size: object):
    with pytest.raises(DataError, match="mask size"):
        regions.from_rle({"size": size, "counts": COUNTS})


def test_polygons_are_rasterised_as_coco_does():
    square, triangle = [1.0, 1.0, 6.0, 1.0, 6.0, 5.0, 1.0, 5.0], [8.5, 0.5, 11.0, 7.0, 7.0, 6.0]
    theirs = coco_mask.merge(coco_mask.frPyObjects([square, triangle], 9, 13))
    ours = regions.from_polygons([square, triangle], 9, 13)
    assert regions.to_rle(ours)["counts"] == theirs["counts"].decode()
    assert ours[1:5, 1:6].all() and ours.sum() > 20


@pytest.mark.parametrize(
    "polygons",
    [
        [],
        [[1, 1, 2, 2]],
        [[1, 1, 2, 2, 3]],
        [[1, 1, 2, 2, 3, float("nan")]],
        [[1, 1, 2, 2, 3, 1e9]],
        [[1, 1, 2, 2, "a", 3]],
        [[[1, 1], [2, 2], [3, 3]]],
        [None],
        7,
    ],
)
def test_broken_polygons_are_refused(polygons: object):
    with pytest.raises(DataError, match="polygon"):
        regions.from_polygons(polygons, 9, 13)


def test_box_and_overlap():
    assert regions.mask_box(MASK) == (0, 0, 4, 3)
    assert regions.mask_box(MASK[:, 1:3]) == (0, 0, 1, 2)
    assert regions.mask_box(np.zeros((3, 4), bool)) == (0, 0, 0, 0)
    other = np.zeros_like(MASK)
    other[:, 3] = True
    assert regions.iou(MASK, other) == 3 / 6
    assert regions.iou(~MASK & MASK, other & ~other) == 1.0


def test_importing_needs_no_pycocotools():
    code = "import sys; sys.modules['pycocotools'] = None; from esam_jax.ops import regions"
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------ segment-anything's numbers (utils/amg.py)

FOLDER = Path(__file__).parents[1] / "golden"
ARRAYS = np.load(FOLDER / "everything.npz")
CASES = json.loads((FOLDER / "everything.json").read_text())


def test_runs_are_those_of_segment_anything():
    for mask, rle, area, coco in zip(
        ARRAYS["masks"], CASES["rle"], CASES["rle_area"], CASES["coco_rle"], strict=True
    ):
        assert regions.to_runs(mask) == rle
        assert sum(rle["counts"][1::2]) == area
        assert regions.compress(rle) == coco
        np.testing.assert_array_equal(regions.from_rle(rle), mask)


@pytest.mark.parametrize("case", CASES["regions"], ids=lambda case: case["name"])
def test_small_regions_go_as_in_segment_anything(case: dict):
    name, kind, area = case["name"].rsplit("_", 2)
    masks = {
        "regions/all_true": np.ones((40, 50), bool),
        "regions/all_false": np.zeros((40, 50), bool),
    }
    mask = masks[name] if name in masks else ARRAYS[name]
    got, changed = slow_regions.without(mask, int(area), kind)
    assert changed == case["changed"] and got.sum() == case["area"]
    wanted = np.unpackbits(ARRAYS[case["name"]], axis=-1, count=50).astype(bool)
    np.testing.assert_array_equal(got, wanted)


@given(st.lists(hnp.arrays(bool, (7, 9)), max_size=5))
def test_texts_that_are_read_together_are_those_read_alone(several: list[np.ndarray]):
    texts = [regions.to_rle(mask)["counts"] for mask in several]
    runs, lengths = regions.text_runs(texts, 7, 9)
    alone = [regions.rle_runs({"size": [7, 9], "counts": text}).tolist() for text in texts]
    found = [part.tolist() for part in np.split(runs, np.cumsum(lengths))][: len(texts)]
    assert found == alone
    assert alone == [regions.to_runs(mask)["counts"] for mask in several]


TEXT = regions.to_rle(MASK)["counts"]


@pytest.mark.parametrize("bad", ["", "o", "\x7f", "é", "oooooooo0", "O", "0" * 99, TEXT + "1"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_bad_text_is_an_error_among_others(bad: str, place: int):
    good = [TEXT, TEXT]
    with pytest.raises(DataError):
        regions.text_runs([*good[:place], bad, *good[place:]], 3, 4)
    assert regions.text_runs(good, 3, 4)[0].tolist() == 2 * COUNTS
