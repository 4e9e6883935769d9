"""Masks at the size of a picture: logits, pixels, run lengths, stability and boxes.

The size is data: a picture is covered by tiles of one shape, whose rows and columns are weighted
sums of those of the decoder's logits. However many sizes of pictures come, they share some dozen
compiled programs: of two sizes of tile, each for three numbers of masks.

Logits and pixels leave the device a tile at a time; stability, boxes and run lengths are found by
one program for all tiles (`tiles.py`).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from esam_jax.ops import bits, regions
from esam_jax.ops.positions import Taps
from esam_jax.predict import programs, tiles
from esam_jax.predict.fetch import each_behind

# Rows and columns of a tile: the smaller where four of them are enough, else the larger.
_SIDES = (64, 256)
SIDES_OF_ACCELERATORS = (256, 1024)
# Pixels of logits in one call: 16 MB, which a CPU keeps near.
_PIXELS_AT_ONCE = 2**22
_ON_ACCELERATOR = 2**26
_MOST_MASKS = 256
_TURNS_BYTES = 2**26  # of turns of all tiles of the masks of one call
_LEAST_ROOM = 4  # tiles whose turns one program marks, or a power of two times as many
_LONGEST = 4096  # rows or columns that taps are made for at once; more come in powers of two
_MEASURED_AT_ONCE = 2**20  # pixels of a tile of all masks that are measured together, on a CPU


@dataclasses.dataclass(frozen=True, eq=False)
class Axes:
    """How rows and columns of a picture are made of those of the decoder's logits."""

    rows: Taps
    columns: Taps

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return len(self.rows.places), len(self.columns.places)

    @property
    def side(self) -> int:
        """Rows and columns of a tile."""
        small, large = _SIDES if jax.default_backend() == "cpu" else SIDES_OF_ACCELERATORS
        height, width = self.size
        return small if -(-height // small) * -(-width // small) <= 4 else large

    @functools.cached_property
    def grid(self) -> list[tuple[int, tuple[Array, ...], list["_Place"]]]:
        """For each column of tiles its x, its taps, and its tiles, on the device."""
        side, (height, width) = self.side, self.size
        rows = [(y, _as_data(self.rows.part(y, side))) for y in range(0, height, side)]
        found = []
        for x in range(0, width, side):
            places = [_Place(_pair(height - y, width - x), *taps) for y, taps in rows]
            taps = _as_data(self.columns.part(x, side))
            found.append((x, *jax.device_put((taps, places))))
        return found

    @functools.cached_property
    def cover(self) -> tiles.Cover:
        """What a program needs to make all tiles, on the device."""
        rows, columns = (
            _as_data(taps.part(0, max(_LONGEST, 1 << (len(taps.places) - 1).bit_length())))
            for taps in (self.rows, self.columns)
        )
        dip = np.minimum(self.rows.weights, 0).sum(1).min()
        return jax.device_put(tiles.Cover(rows, columns, _pair(*self.size), np.float32(-dip)))

    @property
    def tile_counts(self) -> tuple[int, int]:
        """Tiles above and beside each other."""
        height, width = self.size
        return -(-height // self.side), -(-width // self.side)


# Some masks at a time: which of all they are, and their logits at the decoder's size.
Parts = Iterator[tuple[Int[np.ndarray, " _"], Float[Array | np.ndarray, "_ h w"]]]


def sizes_of_each_tile() -> list[tuple[int, int]]:
    """Of the smallest pictures that are covered by each of the two."""
    small, _ = _SIDES if jax.default_backend() == "cpu" else SIDES_OF_ACCELERATORS
    return [(1, 1), (1, 4 * small + 1)]


def sizes_of_more_tiles(pixels: int) -> list[tuple[int, int]]:
    """Of pictures whose run lengths need all further programs of any with up to so many pixels."""
    _, large = _SIDES if jax.default_backend() == "cpu" else SIDES_OF_ACCELERATORS
    most = max(
        down * -(-min(regions.MAX_SIDE, pixels // rows) // large)
        for down in range(1, -(-regions.MAX_SIDE // large) + 1)
        if (rows := (down - 1) * large + 1) <= pixels
    )
    found, room = [], _LEAST_ROOM
    while room < most:
        down = -(-(room + 1) * large // regions.MAX_SIDE)
        found.append((1 + (down - 1) * large, 1 + room // down * large))
        room *= 2
    return found


def _room(tiles: int) -> int:
    """For the turns of so many tiles: a power of two, so that few programs are compiled."""
    return max(_LEAST_ROOM, 1 << (tiles - 1).bit_length())


class _Place(NamedTuple):
    """What a tile is made of."""

    left: Any  # rows and columns of the picture from there on
    places: Any
    weights: Any


def sizes(count: int, axes: Axes, *, for_runs: bool = False) -> list[int]:
    """Numbers of masks that make up `count` or a few more, each one of three.

    `for_runs`: no more than whose turns may lie in memory together.
    """
    pixels = _PIXELS_AT_ONCE if jax.default_backend() == "cpu" else _ON_ACCELERATOR
    most = min(_MOST_MASKS, pixels // axes.side**2)
    few = max(1, most // 8)
    height, width = axes.size
    limit = 8 * _TURNS_BYTES // (height * width) if for_runs else most
    found = []
    # The last call of a size is filled up where that is quicker than more calls.
    for size, spare in ((most, most // 2), (few, few - few // 8)):
        if size <= limit:
            full = (count + spare - 1) // size
            found += [size] * full
            count = max(0, count - size * full)
    return found + [1] * count


def group(side: int, most: int, *, on_cpu: bool) -> int:
    """Masks that are measured together: a power of two."""
    pixels = _MEASURED_AT_ONCE if on_cpu else _ON_ACCELERATOR
    return min(max(1, pixels // side**2), 1 << (most - 1).bit_length(), _MOST_MASKS)


def parts(low_res: Float[np.ndarray, "X h w"], axes: Axes, *, for_runs: bool = False) -> Parts:
    """Of logits of a host, as many at a time as `sizes` says."""
    first = 0
    for size in sizes(len(low_res), axes, for_runs=for_runs):
        which = np.arange(first, min(first + size, len(low_res)))
        which = np.pad(which, (0, size - len(which)), mode="edge")
        yield which, low_res[which]
        first += size


def logits(parts: Parts, count: int, axes: Axes) -> Float[np.ndarray, "X H W"]:
    """Logits at full size, float32."""
    out = np.empty((count, *axes.size), np.float32)
    for which, y, x, found in each_behind(_of_tiles(parts, axes, lambda logits: logits)):
        _put(out, which, y, x, np.asarray(found))
    return out


def inside(parts: Parts, count: int, axes: Axes, zero_is_inside: bool) -> Bool[np.ndarray, "X H W"]:
    """Masks at full size. EfficientSAM's callers count a logit of 0 as inside, SAM's do not."""
    out = np.empty((count, *axes.size), bool)
    packed = partial(_packed, zero_is_inside=zero_is_inside)
    for which, y, x, found in each_behind(_of_tiles(parts, axes, packed)):
        _put(out, which, y, x, np.unpackbits(found, axis=2, bitorder="little").view(bool))
    return out


def on_device(
    answers: tuple[Float[Array | np.ndarray, "_ _ _ h w"], ...],
    places: Int[Array | np.ndarray, "*X"],
    axes: Axes,
    zero_is_inside: bool,
) -> Bool[Array, "*X H W"]:
    """Masks at full size of some rows of all answers, by one program for these shapes."""
    return _on_device(
        answers, places, _as_data(axes.rows), _as_data(axes.columns), zero_is_inside=zero_is_inside
    )


def measured(
    low_res: Float[Array, "X h w"],
    rows: Int[np.ndarray, " _"],
    axes: Axes,
    *,
    offset: float,
    zero_is_inside: bool,
) -> tuple[Float[np.ndarray, " _"], Int[np.ndarray, "_ 4"]]:
    """Stability and box (x0, y0, x1, y1), inclusive, of the masks at the places `rows`.

    As `ops.selection` has them: NaN and zeros for a mask that is empty. At most X places.
    """
    if not len(rows):
        return np.zeros(0, np.float32), np.zeros((0, 4), np.int32)
    # Always X places, so that their number compiles nothing.
    places = np.pad(rows, (0, len(low_res) - len(rows))).astype(np.int32)
    found = tiles.measured(
        low_res,
        places,
        np.int32(len(rows)),
        axes.cover,
        side=axes.side,
        group=group(axes.side, len(low_res), on_cpu=jax.default_backend() == "cpu"),
        offset=float(offset),
        zero_is_inside=zero_is_inside,
    )
    high, low, first, last = (column[: len(rows)] for column in jax.device_get(found))
    with np.errstate(invalid="ignore"):
        stability = high.astype(np.float32) / low.astype(np.float32)
    some = last[:, :1] >= 0
    boxes = np.where(some, np.concatenate([first, last], axis=1), 0)
    return stability, boxes


def runs(
    low_res: Iterable[Float[Array | np.ndarray, "_ h w"]],
    axes: Axes,
    zero_is_inside: bool,
    corner: tuple[int, int] = (0, 0),
    size: tuple[int, int] | None = None,
) -> list[Int[np.ndarray, " L"]]:
    """COCO's plain run lengths of the masks of all parts.

    corner: x and y in a picture of `size` (height, width), where these masks are those of a crop.
    """
    height, width = size or axes.size
    down, across = axes.tile_counts
    room = _room(down * across)
    turned = each_behind(
        tiles.turned(part, axes.cover, side=axes.side, tiles=room, zero_is_inside=zero_is_inside)
        for part in low_res
    )
    return [
        each
        for part in turned
        for each in bits.runs(part[:, : down * across], down, axes.side, *corner, height, width)
    ]


# --------------------------------------------------------------------------------------- tiles


def _tiles(
    low_res: Float[Array | np.ndarray, "X h w"], axes: Axes
) -> Iterator[tuple[int, int, Float[Array, "X _ _"]]]:
    """The row and column where each begins, and its logits; column by column of tiles."""
    low_res = jnp.asarray(low_res, jnp.float32)
    for x, taps, places in axes.grid:
        wide = tiles.widened(low_res, *taps)
        for i, place in enumerate(places):
            yield i * axes.side, x, tiles.on_picture(place.left, wide, place.places, place.weights)


def _pair(first: int, second: int) -> np.ndarray:
    return np.array([first, second], np.int32)


def _as_data(taps: Taps) -> tuple[np.ndarray, np.ndarray]:
    return taps.places.astype(np.int32), taps.weights.astype(np.float32)


def _of_tiles(
    parts: Parts, axes: Axes, program: Callable[[Array], Array]
) -> Iterator[tuple[Int[np.ndarray, " X"], int, int, Array]]:
    """Which masks, the y and x of a tile, and what the program makes of its logits."""
    for which, low_res in parts:
        for y, x, logits in _tiles(low_res, axes):
            yield which, y, x, program(logits)


def _put(out: np.ndarray, which: Int[np.ndarray, " X"], y: int, x: int, pixels: np.ndarray) -> None:
    """A tile of some masks to its place; beyond the picture it is cut off."""
    place = out[:, y : y + pixels.shape[1], x : x + pixels.shape[2]]
    place[which] = pixels[:, : place.shape[1], : place.shape[2]]


# ------------------------------------------------------------------------------------ programs


@partial(jax.jit, static_argnames="zero_is_inside")
def _packed(logits: Float[Array, "X H W"], *, zero_is_inside: bool) -> UInt8[Array, "X H L"]:
    """An eighth of a mask is transferred."""
    return bits.pack_lines(tiles.inside(logits, zero_is_inside=zero_is_inside))


@partial(jax.jit, static_argnames="zero_is_inside")
def _on_device(
    answers: tuple[Float[Array, "_ _ _ h w"], ...],
    places: Int[Array, "*X"],
    rows: tuple[Array, Array],
    columns: tuple[Array, Array],
    *,
    zero_is_inside: bool,
) -> Bool[Array, "*X H W"]:
    full = tiles.along_rows(tiles.along_columns(programs.rows(answers, places), *columns), *rows)
    return tiles.inside(full, zero_is_inside=zero_is_inside)
