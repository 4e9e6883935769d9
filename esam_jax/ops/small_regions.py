"""Small holes and islands of masks, found among run lengths: no mask is ever filled.

Many masks are one strip: side by side in the order of their pixels, with an empty column between
two of them, so that nothing of one touches the next.

Source: segment-anything, `utils/amg.py`, `remove_small_regions`. NumPy, host side.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

Runs = Int[np.ndarray, "_"]  # COCO's plain run lengths, of a picture of known height


def without_small(
    masks: Sequence[Runs], height: int, area: int, kind: Literal["holes", "islands"]
) -> tuple[list[Runs], Bool[np.ndarray, " X"]]:
    """The masks without holes or islands of fewer than `area` pixels, and which had any.

    All are masks of one picture. Pixels that touch at a corner belong together, in holes too. When
    all islands are small the largest stays; of equals, the one that begins in the highest row,
    furthest left.
    """
    changed = np.zeros(len(masks), bool)
    starts, ends, mask = _pieces(masks, height, 1 if kind == "islands" else 0)
    if not len(starts):
        return list(masks), changed
    parts = _joined(starts, ends, height)
    sizes = np.bincount(parts, ends - starts)
    owner = np.zeros(len(sizes), np.int64)
    owner[parts] = mask
    small = sizes < area
    changed[owner[small]] = True
    if kind == "islands":
        column, row = np.divmod(starts, height)
        begin = np.full(len(sizes), np.iinfo(np.int64).max)
        np.minimum.at(begin, parts, row * (column[-1] + 1) + column)
        largest_first = np.lexsort((begin, -sizes, owner))
        # Where it is small, all are.
        small[largest_first[np.unique(owner[largest_first], return_index=True)[1]]] = False
    gone = small[parts]
    return _flipped(masks, height, starts[gone], ends[gone], mask[gone]), changed


def boxes(masks: Sequence[Runs], height: int) -> Int[np.ndarray, "X 4"]:
    """First and last column and row, (x0, y0, x1, y1) inclusive; zeros for an empty mask."""
    found = np.zeros((len(masks), 4), np.int64)
    starts, ends, mask = _pieces(masks, height, 1)
    if len(starts):
        some, first = np.unique(mask, return_index=True)
        column = starts // height - mask * (_strip(masks, height) // height)
        found[some, 0] = column[first]
        found[some, 1] = np.minimum.reduceat(starts % height, first)
        found[some, 2] = np.maximum.reduceat(column, first)
        found[some, 3] = np.maximum.reduceat((ends - 1) % height, first)
    return found


def _strip(masks: Sequence[Runs], height: int) -> int:
    """Pixels of a mask in the strip, with the empty column after it."""
    return int(masks[0].sum()) + height


def _pieces(
    masks: Sequence[Runs], height: int, parity: int
) -> tuple[Int[np.ndarray, " X"], Int[np.ndarray, " X"], Int[np.ndarray, " X"]]:
    """First pixel, and the one after the last, of every second run, cut where a column ends.

    In the strip of all masks; and whose mask each is.
    """
    none = np.zeros(0, np.int64)
    every_second = [mask[parity::2] for mask in masks]
    counts = np.array([len(each) for each in every_second], np.int64)
    mask = np.repeat(np.arange(len(masks)), counts)
    if not len(mask):
        return none, none, none
    ends = np.concatenate([np.cumsum(each, dtype=np.int64)[parity::2] for each in masks])
    ends += mask * _strip(masks, height)
    starts = ends - np.concatenate(every_second)
    some = ends > starts
    starts, ends, mask = starts[some], ends[some], mask[some]
    first = starts // height
    counts = (ends - 1) // height - first + 1
    run = np.repeat(np.arange(len(starts)), counts)
    column = first[run] + _count_up(counts)
    return (
        np.maximum(starts[run], column * height),
        np.minimum(ends[run], (column + 1) * height),
        mask[run],
    )


def _joined(
    starts: Int[np.ndarray, " X"], ends: Int[np.ndarray, " X"], height: int
) -> Int[np.ndarray, " X"]:
    """The number of the 8-connected part that each piece belongs to."""
    from scipy import sparse  # here, since few need it and it is slow to import

    # What touches a piece lies in the next column, from one row above it to one below.
    column = starts // height + 1
    above = np.maximum(starts + height - 1, column * height)
    below = np.minimum(ends + height + 1, (column + 1) * height)
    first = np.searchsorted(ends, above, side="right")
    counts = np.maximum(np.searchsorted(starts, below) - first, 0)
    piece = np.repeat(np.arange(len(starts)), counts)
    other = first[piece] + _count_up(counts)
    touching = sparse.coo_array(
        (np.ones(len(piece), np.int8), (piece, other)), shape=(len(starts), len(starts))
    )
    return sparse.csgraph.connected_components(touching, directed=False)[1]


def _flipped(
    masks: Sequence[Runs],
    height: int,
    starts: Int[np.ndarray, " X"],
    ends: Int[np.ndarray, " X"],
    mask: Int[np.ndarray, " X"],
) -> list[Runs]:
    """The masks with inside and outside exchanged on pieces of the strip that do not overlap."""
    flipped, strip = list(masks), _strip(masks, height)
    some, first = np.unique(mask, return_index=True)
    borders = [*first, len(mask)]
    for place, begin, end in zip(some.tolist(), borders[:-1], borders[1:], strict=True):
        runs, pixels = masks[place], strip - height
        own = slice(begin, end)
        turns = [np.cumsum(runs, dtype=np.int64)[:-1]]
        turns += [edge[own] - place * strip for edge in (starts, ends)]
        turns = np.sort(np.concatenate(turns))
        # What lies in twice is no turn; nor is the end of the picture.
        turns, counts = np.unique(turns[turns < pixels], return_counts=True)
        flipped[place] = np.diff(turns[counts % 2 == 1], prepend=0, append=pixels)
    return flipped


def _count_up(counts: Int[np.ndarray, " X"]) -> Int[np.ndarray, " L"]:
    """0, 1, ... up to below each count, one after another."""
    begin = np.cumsum(counts) - counts
    return np.arange(counts.sum()) - np.repeat(begin, counts)
