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
from jaxtyping import Array, Bool, Float, Int

from esam_jax.ops import bits
from esam_jax.ops.positions import Taps
from esam_jax.predict import tiles
from esam_jax.predict.fetch import each_behind

# Rows and columns of a tile: the smaller where four of them are enough, else the larger.
_SIDES = (64, 256)
SIDES_OF_ACCELERATORS = (256, 1024)
# Pixels of logits in one call: 16 MB, which a CPU keeps near.
_PIXELS_AT_ONCE = 2**22
_ON_ACCELERATOR = 2**26
_MOST_MASKS = 256
_TURNS_BYTES = 2**26  # of turns of all tiles of the masks of one call
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


def parts(
    low_res: Float[np.ndarray, "X h w"], axes: Axes, *, for_runs: bool = False
) -> Iterator[Float[np.ndarray, "_ h w"]]:
    """Logits of a host, as many at a time as `sizes` says; what fills the last up are copies."""
    first = 0
    for size in sizes(len(low_res), axes, for_runs=for_runs):
        part = low_res[first : first + size]
        yield np.pad(part, ((0, size - len(part)), (0, 0), (0, 0)), mode="edge")
        first += size


def enlarged(low_res: Float[Array, "*X h w"], axes: Axes) -> Float[Array, "*X H W"]:
    """Logits at full size in one traced piece, for a program of one size of picture."""
    rows, columns = ([jnp.asarray(x) for x in _as_data(taps)] for taps in (axes.rows, axes.columns))
    return tiles.along_rows(tiles.along_columns(low_res, *columns), *rows)


def logits(low_res: Float[np.ndarray, "X h w"], axes: Axes) -> Float[np.ndarray, "X H W"]:
    """Logits at full size, float32."""
    out = np.empty((len(low_res), *axes.size), np.float32)
    _fill(out, low_res, axes, lambda logits: logits)
    return out


def inside(
    low_res: Float[np.ndarray, "X h w"], axes: Axes, zero_is_inside: bool
) -> Bool[np.ndarray, "X H W"]:
    """Masks at full size. EfficientSAM's callers count a logit of 0 as inside, SAM's do not."""
    out = np.empty((len(low_res), *axes.size), bool)
    _fill(out, low_res, axes, partial(tiles.inside, zero_is_inside=zero_is_inside))
    return out


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
    # To a power of two, so that few programs are compiled.
    room = 1 << (down * across - 1).bit_length()
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


def _fill(out: np.ndarray, low_res: np.ndarray, axes: Axes, program: Callable[..., Array]) -> None:
    first = 0
    for part in parts(low_res, axes):
        found = ((y, x, program(logits)) for y, x, logits in _tiles(part, axes))
        for y, x, pixels in each_behind(found):
            place = out[first : first + len(part), y : y + pixels.shape[1], x : x + pixels.shape[2]]
            np.copyto(place, pixels[: place.shape[0], : place.shape[1], : place.shape[2]])
        first += len(part)
