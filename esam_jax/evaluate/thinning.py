"""Thinning of masks to lines of one pixel, as MATLAB's `bwmorph(mask, 'thin', inf)`.

Z. Guo and R. W. Hall, "Parallel thinning with two-subiteration algorithms", Communications of the
ACM 32(3), 1989: a pixel is taken away in the first half of a pass where its eight neighbours
fulfil G1, G2 and G3, in the second half where they fulfil G1, G2 and G3'.
"""

import numpy as np
from jaxtyping import Bool, Int64, UInt8

# The eight neighbours (rows, columns) from the east on against the clock; bit k of a number.
_NEIGHBOURS = ((0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1))


def thin(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "{len(mask)} _"]:
    """The mask without all that can go and leaves as many parts and holes; the frame is outside."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    while True:
        before = np.count_nonzero(inside)
        for goes in _GOES:
            inside &= ~goes[_numbers(padded)]
        if np.count_nonzero(inside) == before:
            return inside.copy()


def _numbers(padded: Bool[np.ndarray, "H W"]) -> UInt8[np.ndarray, "h w"]:
    """The neighbours of each pixel but those of the margin, as bits."""
    height, width = padded.shape[0] - 2, padded.shape[1] - 2
    found = np.zeros((height, width), np.uint8)
    for bit, (down, right) in enumerate(_NEIGHBOURS):
        moved = padded[1 + down : 1 + down + height, 1 + right : 1 + right + width]
        found |= moved.astype(np.uint8) << np.uint8(bit)
    return found


def _tables() -> tuple[Bool[np.ndarray, " 256"], Bool[np.ndarray, " 256"]]:
    """Whether a pixel goes in either half of a pass, by the number of its neighbours."""
    # x[0] is no neighbour, so that x[1] to x[8] are named as in the paper; x[9] is x[1] again.
    x = [np.zeros(256, bool)] + [(np.arange(256) >> bit & 1).astype(bool) for bit in range(8)]
    x.append(x[1])
    corners = range(1, 5)
    crossings = _sum([~x[2 * i - 1] & (x[2 * i] | x[2 * i + 1]) for i in corners])
    before = _sum([x[2 * i - 1] | x[2 * i] for i in corners])
    after = _sum([x[2 * i] | x[2 * i + 1] for i in corners])
    fewest = np.minimum(before, after)
    both = (crossings == 1) & (fewest >= 2) & (fewest <= 3)
    first = both & ~((x[2] | x[3] | ~x[8]) & x[1])
    second = both & ~((x[6] | x[7] | ~x[4]) & x[5])
    return first, second


def _sum(rows: list[Bool[np.ndarray, " 256"]]) -> Int64[np.ndarray, " 256"]:
    return np.asarray(np.sum(rows, axis=0, dtype=np.int64))


_GOES = _tables()
