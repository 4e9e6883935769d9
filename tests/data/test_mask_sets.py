"""Masks that are decoded together are those decoded one by one, and so is what is left out."""

import tracemalloc

import numpy as np
import pytest

from esam_jax.data import mask_sets
from esam_jax.data.bitmaps import Grid
from esam_jax.data.mask_sets import CocoMasks, Object, Outline, SoundMasks
from esam_jax.data.packed_records import PackedMask, PackedMasks
from esam_jax.data.pictures import Pixels
from esam_jax.data.records import Record
from esam_jax.errors import DataError
from esam_jax.ops import regions

HEIGHT, WIDTH, COUNT = 12, 15, 5
GRID = Grid.whole(HEIGHT, WIDTH)
DENSE = np.random.default_rng(0).random((COUNT, HEIGHT, WIDTH)) < 0.3
GOOD = [regions.to_rle(mask) for mask in DENSE]
BROKEN = {
    "none": {},
    "another size": {2: {**GOOD[2], "size": [WIDTH, HEIGHT]}},
    "a text cut short": {1: {**GOOD[1], "counts": GOOD[1]["counts"][:-1]}},
    "no pixel": {3: regions.to_rle(np.zeros((HEIGHT, WIDTH), bool))},
    "no text": {0: {**GOOD[0], "counts": None}, 4: {**GOOD[4], "counts": "~"}},
    "plain run lengths": {2: regions.to_runs(DENSE[2])},
    "a polygon": {4: [[1.0, 1.0, 6.0, 1.0, 6.0, 5.0]]},
}


def record(masks: object) -> Record:
    return Record("x", Pixels(np.zeros((HEIGHT, WIDTH, 3), np.uint8)), {"masks": masks})


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("indices", [[], [2], [4, 0, 3, 1, 2]])
def test_together_is_one_by_one(case: str, indices: list[int]):
    outlines = [
        Outline(f"mask {i}", {**dict(enumerate(GOOD)), **BROKEN[case]}[i]) for i in range(COUNT)
    ]
    together, alone = (record(CocoMasks("x", outlines, HEIGHT, WIDTH)) for _ in range(2))
    found = SoundMasks(together).sample_all(indices, GRID)
    slow = [SoundMasks(alone).sample(index, GRID) for index in indices]
    for one, other in zip(found, slow, strict=True):
        assert (one is None) == (other is None)
        assert one is None or (one.dense() == other.dense()).all()
    assert together.findings == alone.findings
    left_out = {"none", "plain run lengths", "a polygon"}
    assert bool(together.findings) == (
        case not in left_out and not {*indices}.isdisjoint(BROKEN[case])
    )


@pytest.mark.parametrize("limit", ["_TOGETHER_BYTES", "_TOGETHER_CHARACTERS"])
def test_what_takes_much_memory_is_decoded_one_by_one(limit: str, monkeypatch):
    masks = CocoMasks("x", [Outline("a mask", each) for each in GOOD], HEIGHT, WIDTH)
    characters = sum(len(each["counts"]) for each in GOOD)
    most = {"_TOGETHER_BYTES": COUNT * 512 * WIDTH // 8, "_TOGETHER_CHARACTERS": characters}
    monkeypatch.setattr(mask_sets, limit, most[limit])
    together = mask_sets.sample_together(masks, range(COUNT), GRID)
    assert together is not None and (together[1].dense() == DENSE[1]).all()
    monkeypatch.setattr(mask_sets, limit, most[limit] - 1)
    assert mask_sets.sample_together(masks, range(COUNT), GRID) is None
    assert [*map(bool, SoundMasks(record(masks)).sample_all(range(COUNT), GRID))] == [True] * COUNT


def _held(masks: CocoMasks, grid: Grid) -> tuple[bool, int]:
    """Whether they are decoded together, and the most memory that took."""
    tracemalloc.start()
    together = mask_sets.sample_together(masks, range(len(masks)), grid)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return together is not None, most


@pytest.mark.parametrize(("height", "width", "count"), [(1, 16_384, 100), (16_384, 1, 2)])
def test_pictures_of_one_row_or_column_take_no_more_memory(height: int, width: int, count: int):
    """Their masks have few bytes, but many columns, or turns that a wide grid repeats."""
    mask = np.ones((height, width), bool)
    mask[1::2] = False
    columns = np.arange(width).repeat(-(-64 // width))
    grid = Grid(height, width, np.arange(height)[:1024], columns)
    masks = CocoMasks("x", [Outline("a mask", regions.to_rle(mask))] * count, height, width)
    together, most = _held(masks, grid)
    assert not together and most < 2**22


def test_packed_masks_of_which_some_are_broken():
    rows = [PackedMask(Object(i), each["counts"]) for i, each in enumerate(GOOD)]
    rows[1] = PackedMask(Object(1), None, "x: mask 1 was broken")
    rows[3] = PackedMask(Object(3), GOOD[3]["counts"] + "1")
    read = record(PackedMasks("x", rows, HEIGHT, WIDTH))
    found = SoundMasks(read).sample_all(range(COUNT), GRID)
    assert [mask is None for mask in found] == [False, True, False, True, False]
    assert (found[4].dense() == DENSE[4]).all()
    texts = [each.text for each in read.findings]
    assert texts[0] == "x: mask 1 was broken" and "mask 3: run lengths sum to" in texts[1]


def test_nothing_usable_is_an_error_after_all_were_tried():
    outlines = [Outline(f"mask {i}", {**each, "counts": "o"}) for i, each in enumerate(GOOD)]
    masks = SoundMasks(record(CocoMasks("x", outlines, HEIGHT, WIDTH)))
    assert masks.sample_all(range(COUNT - 1), GRID) == [None] * (COUNT - 1)
    masks.require_some()
    masks.sample_all([COUNT - 1], GRID)
    with pytest.raises(DataError, match="x: 5 of 5 objects cannot be used"):
        masks.require_some()
