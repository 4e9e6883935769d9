"""Masks as bits, 8 rows of a column to a byte, and run lengths of many masks at once.

A device packs masks without transposing them, and marks turns: pixels that differ from the one
above them in their column. An eighth of a mask is transferred; the host unpacks the few words that
hold a turn.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8

_ROWS = 32  # of a word of the host, which is four bytes of the device


def pack(masks: Bool[Array, "X H W"]) -> UInt8[Array, "X L W"]:
    """Row 8 l + i in bit i of byte l. At least one row more than the picture has: zeros."""
    X, H, W = masks.shape
    padded = jnp.pad(masks, ((0, 0), (0, _ROWS - H % _ROWS), (0, 0)))
    bits = padded.reshape(X, -1, 8, W).astype(jnp.uint8)
    return jnp.sum(bits << jnp.arange(8, dtype=jnp.uint8)[:, None], axis=2, dtype=jnp.uint8)


def bytes_of(rows: int) -> int:
    """Bytes of a column, as `pack` makes them."""
    return (rows // _ROWS + 1) * _ROWS // 8


def pack_lines(masks: Bool[Array, "*X W"]) -> UInt8[Array, "*X L"]:
    """Column 8 l + i in bit i of byte l, which `unpack` inverts; W is a multiple of 8."""
    bits = masks.reshape(*masks.shape[:-1], -1, 8).astype(jnp.uint8)
    return jnp.sum(bits << jnp.arange(8, dtype=jnp.uint8), axis=-1, dtype=jnp.uint8)


def unpack(line: UInt8[Array, "*X L"], length: int) -> Bool[Array, "*X {length}"]:
    """The first bits of a line of bytes."""
    bits = line[..., None] >> jnp.arange(8, dtype=jnp.uint8) & 1
    return bits.reshape(*line.shape[:-1], -1)[..., :length] > 0


def turns(packed: UInt8[Array, "X L W"]) -> UInt8[Array, "X W L"]:
    """Turns of each column: outside above row 0 and below row H - 1, so always an even number."""
    above = jnp.pad(packed[:, :-1] >> 7, ((0, 0), (1, 0), (0, 0)))
    return (packed ^ (packed << 1 | above)).swapaxes(1, 2)


def runs(
    turns: UInt8[np.ndarray, "X _ W L"],
    down: int,
    rows: int,
    x: int,
    y: int,
    height: int,
    width: int,
) -> list[Int[np.ndarray, " _"]]:
    """COCO's plain run lengths of masks that lie at (x, y) in a picture of that size.

    Down the columns, outside and inside alternating, starting outside. A mask is cut in tiles of
    `rows` rows, the second axis: `down` of them above each other, then those beside them. Each
    has turns of its own.
    """
    X, tiles, W, L = turns.shape
    words = np.ascontiguousarray(turns).reshape(-1).view("<u4")
    full = np.flatnonzero(words)
    bits = np.unpackbits(words[full].view(np.uint8).reshape(-1, 4), axis=1, bitorder="little")
    which, bit = np.nonzero(bits)
    column, word = np.divmod(full[which], L // 4)
    tile, column = np.divmod(column, W)
    mask, tile = np.divmod(tile, tiles)
    across, tile = np.divmod(tile, down)
    pixel = (x + across * W + column) * height + y + tile * rows + word * _ROWS + bit
    if down > 1:  # columns of tiles below each other come one after the other
        order = np.argsort(mask * (height * width + 1) + pixel, kind="stable")
        mask, pixel = mask[order], pixel[order]
    # A run that continues into the next tile or column ends and begins at one pixel: no turn. Nor
    # is the end of the picture.
    again = (pixel[1:] == pixel[:-1]) & (mask[1:] == mask[:-1])
    turn = pixel < height * width
    turn[1:] &= ~again
    turn[:-1] &= ~again
    mask, pixel = mask[turn], pixel[turn]
    parts = np.split(pixel, np.searchsorted(mask, np.arange(1, X)))
    return [np.diff(part, prepend=0, append=height * width) for part in parts]
