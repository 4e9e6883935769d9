"""What is read of masks at the size of a picture, tile by tile, in programs for any size.

A tile is a weighted sum of the rows and columns of the decoder's logits. Programs loop over the
tiles of a picture on the device and leave out those that no mask of a group reaches.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt8

from esam_jax.ops import bits, selection

THRESHOLD = 0.0  # of the logits, in every SAM
_FAR = 2**30  # beyond any picture
_T = TypeVar("_T")


class Cover(NamedTuple):
    """All rows and columns of a picture, more of them than it has, and the sizes as data."""

    rows: Any  # places and weights
    columns: Any
    size: Any  # height and width
    dip: Any  # the largest sum of negative weights of a row: how far a sum may leave its range


class Tile(NamedTuple):
    """Logits of a tile whose corner has that (x, y) in the picture; minus infinity beside it."""

    corner: Array
    logits: Float[Array, "X _ _"]


# What uses the logits of a tile is a program of its own: a compiler that fuses them would add them
# up once for every use (on a CPU, at twenty times the cost).


def along_columns(
    x: Float[Array, "*X h w"], places: Int[Array, "_ _"], weights: Float[Array, "_ _"]
) -> Float[Array, "*X h _"]:
    out = jnp.zeros((), x.dtype)
    for place, weight in zip(places.T, weights.T, strict=True):
        out += weight * x.at[..., place].get(mode=_IN_BOUNDS)
    return out


def along_rows(
    x: Float[Array, "*X h w"], places: Int[Array, "_ _"], weights: Float[Array, "_ _"]
) -> Float[Array, "*X _ w"]:
    out = jnp.zeros((), x.dtype)
    for place, weight in zip(places.T, weights.T, strict=True):
        out += weight[:, None] * x.at[..., place, :].get(mode=_IN_BOUNDS)
    return out


_IN_BOUNDS = "promise_in_bounds"
widened = jax.jit(along_columns)


@jax.jit
def on_picture(
    left: Int[Array, "2"],
    wide: Float[Array, "X h _"],
    places: Int[Array, "_ _"],
    weights: Float[Array, "_ _"],
) -> Float[Array, "X _ _"]:
    """Logits of a tile that has `left` rows and columns of the picture, or more."""
    found = along_rows(wide, places, weights)
    high, across = found.shape[-2:]
    on_picture = (jnp.arange(high)[:, None] < left[0]) & (jnp.arange(across) < left[1])
    return jnp.where(on_picture, found, -jnp.inf)


@partial(jax.jit, static_argnames="zero_is_inside")
def inside(logits: Float[Array, "*X H W"], *, zero_is_inside: bool) -> Bool[Array, "*X H W"]:
    return logits >= THRESHOLD if zero_is_inside else logits > THRESHOLD


# As data, the offset would cost four times the rest.
@partial(jax.jit, static_argnames=("side", "group", "offset", "zero_is_inside"))
def measured(
    low_res: Float[Array, "X h w"],
    places: Int[Array, " X"],
    count: Int[Array, ""],
    cover: Cover,
    *,
    side: int,
    group: int,
    offset: float,
    zero_is_inside: bool,
) -> tuple[Array, ...]:
    """Pixels above both thresholds, first and last (x, y) inside, of the first `count` places."""
    spare = -len(places) % group
    places = jnp.pad(places, (0, spare))
    zeros = jnp.zeros(group, jnp.int32)
    nothing = (zeros, zeros, jnp.full((group, 2), _FAR), jnp.full((group, 2), -1))

    def add(so_far: tuple[Array, ...], tile: Tile) -> tuple[Array, ...]:
        areas = selection.areas(tile.logits, THRESHOLD, offset)
        box, some = selection.extents(inside(tile.logits, zero_is_inside=zero_is_inside))
        first = jnp.where(some[:, None], box[:, :2] + tile.corner, _FAR)
        last = jnp.where(some[:, None], box[:, 2:] + tile.corner, -1)
        high, low = (a + b for a, b in zip(so_far, areas, strict=False))
        return high, low, jnp.minimum(so_far[2], first), jnp.maximum(so_far[3], last)

    def measure(i: Array, found: tuple[Array, ...]) -> tuple[Array, ...]:
        some = low_res[lax.dynamic_slice_in_dim(places, i * group, group)]
        measures = over_tiles(some, cover, side, -offset, nothing, add)
        return tuple(
            lax.dynamic_update_slice_in_dim(all_, each, i * group, 0)
            for all_, each in zip(found, measures, strict=True)
        )

    shapes = ((), (), (2,), (2,))
    found = tuple(jnp.zeros((len(places), *shape), jnp.int32) for shape in shapes)
    with jax.named_scope("groups"):
        return lax.fori_loop(0, (count + group - 1) // group, measure, found)


@partial(jax.jit, static_argnames=("side", "tiles", "zero_is_inside"))
def turned(
    low_res: Float[Array, "X h w"],
    cover: Cover,
    *,
    side: int,
    tiles: int,
    zero_is_inside: bool,
) -> UInt8[Array, "X {tiles} {side} L"]:
    """Turns of each tile, column by column of tiles; zeros where there are fewer."""
    down = (cover.size[0] + side - 1) // side

    def add(turns: Array, tile: Tile) -> Array:
        packed = bits.pack(inside(tile.logits, zero_is_inside=zero_is_inside))
        x, y = tile.corner // side
        new = bits.turns(packed)[:, None]
        return lax.dynamic_update_slice_in_dim(turns, new, x * down + y, 1)

    turns = jnp.zeros((len(low_res), tiles, side, bits.bytes_of(side)), jnp.uint8)
    return over_tiles(low_res, cover, side, 0.0, turns, add)


def over_tiles(
    low_res: Float[Array, "X h w"],
    cover: Cover,
    side: int,
    least: float,
    start: _T,
    add: "Callable[[_T, Tile], _T]",
) -> _T:
    """`add` over all tiles that may have a logit above or at `least`."""

    def visit(so_far: _T, corner: Array, nothing: Array, made: Callable[[], Array]) -> _T:
        def added() -> _T:
            return add(so_far, Tile(corner, stored(made)))

        return lax.cond(nothing, lambda: so_far, added)

    return each_tile(low_res, cover, side, least, start, visit)


def each_tile(
    low_res: Float[Array, "X h w"],
    cover: Cover,
    side: int,
    least: float,
    start: _T,
    visit: "Callable[[_T, Array, Array, Callable[[], Array]], _T]",
) -> _T:
    """`visit` over all tiles: what there is so far, the (x, y) of the corner, whether no logit can
    reach `least`, and what makes the logits.

    What goes through a condition is copied: who has much so far makes one of a part of it.
    """
    low_res = low_res.astype(jnp.float32)
    down, across = ((size + side - 1) // side for size in cover.size)

    def column(x: Array, so_far: _T) -> _T:
        wide = along_columns(low_res, *_cut(cover.columns, x, side))
        highest, lowest = wide.max((0, 2)), wide.min((0, 2))

        def tile(y: Array, so_far: _T) -> _T:
            places, weights = _cut(cover.rows, y, side)
            left = cover.size - jnp.stack([y, x]) * side

            def made() -> Array:
                return on_picture(left, wide, places, weights)

            high, low = highest[places].max(), lowest[places].min()
            rounding = 1e-5 * (abs(high) + abs(low))
            nothing = high + cover.dip * (high - low) + rounding < least  # of NaN: false
            return visit(so_far, jnp.stack([x, y]) * side, nothing, made)

        return lax.fori_loop(0, down, tile, so_far)

    with jax.named_scope("tiles"):
        return lax.fori_loop(0, across, column, start)


def _cut(taps: Any, tile: Array, side: int) -> Any:
    return tuple(lax.dynamic_slice_in_dim(each, tile * side, side) for each in taps)


def stored(make: Callable[[], Array]) -> Array:
    """What `make` gives, added up once on a CPU however many read it.

    XLA fuses it with each of its users there, at twenty times the cost: not through a condition,
    whatever it may be.
    """
    shape = jax.eval_shape(make)

    def stored() -> Array:
        certain = lax.optimization_barrier(jnp.int32(1)) > 0
        return lax.cond(certain, make, lambda: jnp.zeros(shape.shape, shape.dtype))

    return lax.platform_dependent(cpu=stored, default=make)
