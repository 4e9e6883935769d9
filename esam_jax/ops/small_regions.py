"""Small holes and islands of masks, found among run lengths: no mask is ever filled.

Source: segment-anything, `utils/amg.py`, `remove_small_regions`. NumPy, host side.
"""

from typing import Literal

import numpy as np
from jaxtyping import Int

Runs = Int[np.ndarray, "_"]  # COCO's plain run lengths, of a picture of known height


def without_small(
    runs: Runs, height: int, area: int, kind: Literal["holes", "islands"]
) -> tuple[Runs, bool]:
    """The mask without its holes or islands of fewer than `area` pixels, and whether any was there.

    Pixels that touch at a corner belong together, in holes too. When all islands are small the
    largest stays; of equals, the one that begins in the highest row, furthest left.
    """
    starts, ends = _pieces(runs, height, 1 if kind == "islands" else 0)
    if not len(starts):
        return runs, False
    parts = _joined(starts, ends, height)
    sizes = np.bincount(parts, ends - starts)
    small = sizes < area
    if not small.any():
        return runs, False
    if kind == "islands" and small.all():
        column, row = np.divmod(starts, height)
        begin = np.full(len(sizes), np.iinfo(np.int64).max)
        np.minimum.at(begin, parts, row * runs.sum() + column)
        small[np.lexsort((begin, -sizes))[0]] = False
    gone = small[parts]
    return _flipped(runs, starts[gone], ends[gone]), True


def box(runs: Runs, height: int) -> tuple[int, int, int, int]:
    """First and last column and row, (x0, y0, x1, y1) inclusive; zeros for an empty mask."""
    starts, ends = _pieces(runs, height, 1)
    if not len(starts):
        return 0, 0, 0, 0
    top, bottom = starts % height, (ends - 1) % height
    x0, x1 = starts[[0, -1]] // height
    return int(x0), int(top.min()), int(x1), int(bottom.max())


def _pieces(
    runs: Runs, height: int, parity: int
) -> tuple[Int[np.ndarray, " X"], Int[np.ndarray, " X"]]:
    """First pixel, and the one after the last, of every second run, cut where a column ends."""
    ends = np.cumsum(runs, dtype=np.int64)
    starts, ends = (ends - runs)[parity::2], ends[parity::2]
    starts, ends = starts[ends > starts], ends[ends > starts]
    first = starts // height
    counts = (ends - 1) // height - first + 1
    run = np.repeat(np.arange(len(starts)), counts)
    column = first[run] + _count_up(counts)
    return (
        np.maximum(starts[run], column * height),
        np.minimum(ends[run], (column + 1) * height),
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


def _flipped(runs: Runs, starts: Int[np.ndarray, " X"], ends: Int[np.ndarray, " X"]) -> Runs:
    """The runs with inside and outside exchanged on some pieces that do not overlap."""
    pixels = int(runs.sum())
    turns = np.concatenate([np.cumsum(runs, dtype=np.int64)[:-1], starts, ends])
    turns, counts = np.unique(turns[turns < pixels], return_counts=True)
    return np.diff(turns[counts % 2 == 1], prepend=0, append=pixels)


def _count_up(counts: Int[np.ndarray, " X"]) -> Int[np.ndarray, " L"]:
    """0, 1, ... up to below each count, one after another."""
    begin = np.cumsum(counts) - counts
    return np.arange(counts.sum()) - np.repeat(begin, counts)
