"""Masks as rows of bits, put on any grid of pixels straight from their run lengths.

A bitmap has an eighth of the bytes of a mask of booleans, and what a prompt needs of a mask (its
area, its box, a pixel inside) is found without unpacking it.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Int64, Integer, UInt8

_MOST_TURNS = 2**20  # with those of columns that come again; one takes some 60 bytes on the way
_WORD = 64  # bits; rows are whole words, so that they can be combined by the word


@dataclasses.dataclass(frozen=True)
class Bitmap:
    """A mask of height x width that is empty outside of a window: most masks are small.

    The leftmost pixel of a row is in the highest bit of its first byte, as `np.packbits` has it.
    Rows of the window are filled up with zeros to a multiple of eight bytes; it begins at the row
    `top` and the byte `first` of a row of the mask, a multiple of eight.
    """

    window: UInt8[np.ndarray, "h l"]
    height: int
    width: int
    top: int = 0
    first: int = 0

    @classmethod
    def of(cls, mask: Bool[np.ndarray, "H W"]) -> "Bitmap":
        height, width = mask.shape
        packed = np.zeros((height, _row_bytes(width)), np.uint8)
        packed[:, : -(-width // 8)] = np.packbits(mask, axis=1)
        return cls(packed, height, width)

    def put(self, rows: UInt8[np.ndarray, "Y L"]) -> None:
        """Sets the mask in the corner of empty rows of bits, which may be longer than its own."""
        line = rows[self.top : self.top + len(self.window), self.first :]
        line[:, : self.window.shape[1]] = self.window[:, : line.shape[1]]

    def rows(self) -> UInt8[np.ndarray, "{self.height} L"]:
        """All rows of bits, each filled up to a multiple of eight bytes."""
        rows = np.zeros((self.height, _row_bytes(self.width)), np.uint8)
        self.put(rows)
        return rows

    def dense(self) -> Bool[np.ndarray, "{self.height} {self.width}"]:
        return np.unpackbits(self.rows(), axis=1, count=self.width).view(bool)

    def area(self) -> int:
        return int(self._counts.sum())

    def box(self) -> tuple[int, int, int, int] | None:
        """(x0, y0, x1, y1) of the outermost pixels inside; None for an empty mask."""
        rows = np.flatnonzero(self._counts)
        if not rows.size:
            return None
        inside = np.bitwise_or.reduce(self.window.view(np.uint64), 0).view(np.uint8)
        columns = np.flatnonzero(np.unpackbits(inside)) + 8 * self.first
        top = self.top
        return int(columns[0]), int(rows[0]) + top, int(columns[-1]), int(rows[-1]) + top

    def pixel(self, number: int) -> tuple[int, int]:
        """(x, y) of the pixel inside of this number, from 0 in reading order."""
        until = np.cumsum(self._counts)
        y = int(np.searchsorted(until, number, side="right"))
        inside = np.flatnonzero(np.unpackbits(self.window[y]))
        x = int(inside[number - int(until[y] - self._counts[y])])
        return x + 8 * self.first, y + self.top

    @functools.cached_property
    def _counts(self) -> Int64[np.ndarray, " h"]:
        """Pixels inside of each row of the window."""
        return np.bitwise_count(self.window.view(np.uint64)).sum(1, dtype=np.int64)


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

    def repeats(self) -> int:
        """How often a column of the picture comes at most; 1 for no columns."""
        return int(np.bincount(self.columns).max(initial=1))

    def place(self, runs: Int64[np.ndarray, " L"]) -> Bitmap:
        """The mask of checked run lengths (column by column, outside first) on this grid."""
        repeats = self.repeats()
        if repeats > 1 and len(runs) * repeats > _MOST_TURNS:
            columns, back = np.unique(self.columns, return_inverse=True)
            narrow = dataclasses.replace(self, columns=columns).place(runs)
            return Bitmap.of(narrow.dense()[:, back])
        (mask,) = self.place_all(runs, np.array([len(runs)]))
        return mask

    def place_all(
        self, runs: Int64[np.ndarray, " L"], lengths: Int64[np.ndarray, " Q"]
    ) -> list[Bitmap]:
        """The masks of run lengths that follow one another, `lengths` of them for each mask.

        Only turns are touched: each is put on the first row of the grid that it reaches, two on one
        row cancel out, and rows are then added up, 64 columns at a time. Masks lie beside one
        another in this, as in one long picture: NumPy is called once for all of them.
        """
        turns = np.cumsum(runs)
        # A mask that ends outside has no turn at its end; now each has an even number of them.
        turns = np.delete(turns, (np.cumsum(lengths) - 1)[lengths % 2 == 1])
        mask, place = self._seen(turns, lengths - lengths % 2)
        column, tops = self._order[place], self._tops[place] + mask * (self.height * self.width)
        first = np.searchsorted(turns, tops, side="right")  # beyond the top pixel of a column
        last = np.searchsorted(turns, tops + self.height, side="left")
        count = last - first
        turn = _ranges(first, count)
        row = self._reached[turns[turn] - np.repeat(tops, count)]
        inside = np.flatnonzero(first & 1)  # columns whose top pixel is
        open_below = np.flatnonzero(last & 1)  # and whose bottom pixel is

        edges = _Edges(
            mask=np.concatenate([np.repeat(mask, count), mask[inside], mask[open_below]]),
            row=np.concatenate([row, 0 * inside, 0 * open_below + len(self.rows)]),
            column=np.concatenate([np.repeat(column, count), column[inside], column[open_below]]),
        )
        return edges.fill(len(lengths), len(self.rows), len(self.columns))

    def _seen(
        self, turns: Int64[np.ndarray, " _"], counts: Int64[np.ndarray, " Q"]
    ) -> tuple[Int64[np.ndarray, " _"], Int64[np.ndarray, " _"]]:
        """The columns in which a mask may have pixels: its number, and their places in `_tops`."""
        some = np.flatnonzero(counts)
        ends = np.cumsum(counts)[some]
        offset = some * (self.height * self.width)
        begin = turns[ends - counts[some]] - offset
        low = np.searchsorted(self._tops, begin // self.height * self.height)
        high = np.searchsorted(self._tops, turns[ends - 1] - offset)
        return np.repeat(some, high - low), _ranges(low, high - low)

    @functools.cached_property
    def _order(self) -> Int64[np.ndarray, " X"]:
        """The columns from left to right."""
        return np.argsort(self.columns, kind="stable")

    @functools.cached_property
    def _tops(self) -> Int64[np.ndarray, " X"]:
        """Where each column, from left to right, begins in the sequence that run lengths count."""
        return self.columns[self._order].astype(np.int64) * self.height

    @functools.cached_property
    def _reached(self) -> Int64[np.ndarray, " _"]:
        """For each row of the picture the first row of the grid that is not above it."""
        return np.searchsorted(self.rows, np.arange(self.height)).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class _Edges:
    """Pixels of several masks from which on, downwards, inside and outside are exchanged.

    In any order; the row below the last one is one, too.
    """

    mask: Int64[np.ndarray, " E"]
    row: Int64[np.ndarray, " E"]
    column: Int64[np.ndarray, " E"]

    def fill(self, masks: int, height: int, width: int) -> list[Bitmap]:
        """So many masks, each with a window as large as its edges need."""
        top, bottom = np.full(masks, height), np.zeros(masks, np.int64)
        left, right = np.full(masks, width), np.zeros(masks, np.int64)
        np.minimum.at(top, self.mask, self.row)
        np.maximum.at(bottom, self.mask, self.row)
        np.minimum.at(left, self.mask, self.column)
        np.maximum.at(right, self.mask, self.column + 1)
        byte = left // _WORD * (_WORD // 8)
        line = np.maximum(-(-right // _WORD) * (_WORD // 8) - byte, 0)
        rows = np.maximum(bottom - top, 0)
        begin = np.cumsum((rows + 1) * line) - (rows + 1) * line
        end = begin + rows * line

        marks = np.zeros(int(((rows + 1) * line).sum()), np.uint8)
        bits = np.uint8(0x80) >> (self.column & 7).astype(np.uint8)
        place = begin[self.mask] + (self.row - top[self.mask]) * line[self.mask]
        np.bitwise_xor.at(marks, place + (self.column >> 3) - byte[self.mask], bits)
        made = []
        for i in range(masks):
            words = marks[begin[i] : end[i]].reshape(rows[i], line[i]).view(np.uint64)
            np.bitwise_xor.accumulate(words, axis=0, out=words)
            window = words.view(np.uint8)
            made.append(Bitmap(window, height, width, int(top[i]), int(byte[i])))
        return made


def _ranges(
    first: Int64[np.ndarray, " X"], count: Int64[np.ndarray, " X"]
) -> Int64[np.ndarray, " _"]:
    """Integers from each `first` on, `count` of them."""
    ends = np.cumsum(count)
    return np.arange(ends[-1] if ends.size else 0) + np.repeat(first - (ends - count), count)


def _row_bytes(width: int) -> int:
    return -(-width // _WORD) * (_WORD // 8)
