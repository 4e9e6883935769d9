"""Masks as rows of bits, put on any grid of pixels straight from their run lengths.

A bitmap has an eighth of the bytes of a mask of booleans, and what a prompt needs of a mask (its
area, its box, a pixel inside) is found without unpacking it.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Int64, Integer, UInt8

_WORD = 64  # bits; rows are whole words, so that they can be combined by the word


@dataclasses.dataclass(frozen=True)
class Bitmap:
    """A mask, the leftmost pixel of a row in the highest bit of its first byte, as `np.packbits`.

    Rows are filled up with zeros to a multiple of eight bytes.
    """

    packed: UInt8[np.ndarray, "H L"]
    width: int

    @classmethod
    def of(cls, mask: Bool[np.ndarray, "H W"]) -> "Bitmap":
        height, width = mask.shape
        packed = np.zeros((height, _row_bytes(width)), np.uint8)
        packed[:, : -(-width // 8)] = np.packbits(mask, axis=1)
        return cls(packed, width)

    @property
    def height(self) -> int:
        return len(self.packed)

    def dense(self) -> Bool[np.ndarray, "{self.height} {self.width}"]:
        return np.unpackbits(self.packed, axis=1, count=self.width).view(bool)

    def area(self) -> int:
        return int(np.bitwise_count(self.packed.view(np.uint64)).sum(dtype=np.int64))

    def box(self) -> tuple[int, int, int, int] | None:
        """(x0, y0, x1, y1) of the outermost pixels inside; None for an empty mask."""
        words = self.packed.view(np.uint64)
        rows = np.flatnonzero(words.any(1))
        if not rows.size:
            return None
        columns = np.flatnonzero(np.unpackbits(np.bitwise_or.reduce(words, 0).view(np.uint8)))
        return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])

    def pixel(self, number: int) -> tuple[int, int]:
        """(x, y) of the pixel inside of this number, from 0 in reading order."""
        in_row = np.bitwise_count(self.packed.view(np.uint64)).sum(1, dtype=np.int64)
        until = np.cumsum(in_row)
        y = int(np.searchsorted(until, number, side="right"))
        inside = np.flatnonzero(np.unpackbits(self.packed[y]))
        return int(inside[number - int(until[y] - in_row[y])]), y


@dataclasses.dataclass(frozen=True)
class Grid:
    """Some rows and columns of a picture of height x width, as nearest-neighbour resizing wants.

    Rows ascend; columns come in any order, mirrored for example. Either may repeat itself.
    """

    height: int
    width: int
    rows: Integer[np.ndarray, " Y"]
    columns: Integer[np.ndarray, " X"]

    @classmethod
    def whole(cls, height: int, width: int) -> "Grid":
        return cls(height, width, np.arange(height), np.arange(width))

    def place(self, runs: Int64[np.ndarray, " L"]) -> Bitmap:
        """The mask of checked run lengths (column by column, outside first) on this grid.

        Only turns are touched: each is put on the first row of the grid that it reaches, two on one
        row cancel out, and rows are then added up, 64 columns at a time.
        """
        turns = np.cumsum(runs)[:-1]
        first = np.searchsorted(turns, self._tops, side="right")  # beyond the top pixel of a column
        counts = np.searchsorted(turns, self._tops + self.height, side="left") - first
        ends = np.cumsum(counts)
        turn = np.arange(ends[-1]) + np.repeat(first - (ends - counts), counts)
        column = np.repeat(np.arange(len(self.columns)), counts)
        row = self._reached[turns[turn] - self._tops[column]]
        inside = np.flatnonzero(first & 1)  # columns whose top pixel is
        column, row = np.concatenate([inside, column]), np.concatenate([0 * inside, row])

        line = _row_bytes(len(self.columns))
        marks = np.zeros((len(self.rows) + 1, line), np.uint8)  # turns below all rows: the last one
        bits = np.uint8(0x80) >> (column & 7).astype(np.uint8)
        np.bitwise_xor.at(marks.reshape(-1), row * line + (column >> 3), bits)
        words = marks[:-1].view(np.uint64)
        np.bitwise_xor.accumulate(words, axis=0, out=words)
        return Bitmap(marks[:-1], len(self.columns))

    @functools.cached_property
    def _tops(self) -> Int64[np.ndarray, " X"]:
        """Where each column begins in the sequence that run lengths count."""
        return self.columns.astype(np.int64) * self.height

    @functools.cached_property
    def _reached(self) -> Int64[np.ndarray, " _"]:
        """For each row of the picture the first row of the grid that is not above it."""
        return np.searchsorted(self.rows, np.arange(self.height)).astype(np.int64)


def _row_bytes(width: int) -> int:
    return -(-width // _WORD) * (_WORD // 8)
