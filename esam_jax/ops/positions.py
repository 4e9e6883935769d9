"""Resampling as PyTorch computes it, position tables, Fourier features of coordinates.

Released weights expect torch's resampling: half-pixel centres, no antialias, edges replicated and
bicubic with a = -0.75, where `jax.image.resize` has a = -0.5 and antialiases. Sizes are static, so
a resize is a product with one small matrix per axis, made by NumPy in float64.
"""

import functools
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from esam_jax.errors import ConfigError

Kind = Literal["linear", "cubic"]


@functools.lru_cache(maxsize=64)
def weights(old: int, new: int, kind: Kind) -> np.ndarray:
    """Matrix [new, old] that resamples an axis (torch.nn.functional.interpolate)."""
    centre = (np.arange(new) + 0.5) * (old / new) - 0.5
    if kind == "linear":
        centre = np.maximum(centre, 0)
    first = np.floor(centre).astype(int)
    offset = centre - first
    if kind == "linear":
        taps = {0: 1 - offset, 1: offset}
    else:
        taps = {step: _cubic(np.abs(offset - step)) for step in (-1, 0, 1, 2)}
    matrix = np.zeros((new, old))
    for step, weight in taps.items():
        # Several taps may fall on one replicated edge: they add up.
        np.add.at(matrix, (np.arange(new), np.clip(first + step, 0, old - 1)), weight)
    return matrix.astype(np.float32)


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with torch's a = -0.75."""
    a = -0.75
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


def separable(
    x: Float[Array, "*X H W C"],
    rows: Float[np.ndarray, "_ H"] | None,
    cols: Float[np.ndarray, "_ W"] | None,
) -> Float[Array, "*X _ _ C"]:
    """Weighted sums along both image axes, in float32; None leaves an axis as it is."""
    # Full float32 products: pixels and positions must not lose bits to TF32 or bfloat16 passes.
    product = functools.partial(
        jnp.einsum, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    )
    out = x
    if rows is not None:
        out = product("...HWC,iH->...iWC", out, rows)
    if cols is not None:
        out = product("...HWC,jW->...HjC", out, cols)
    return out.astype(x.dtype)


def enlarge(
    x: Float[Array, "*X H W"], rows: Float[np.ndarray, "_ H"], cols: Float[np.ndarray, "_ W"]
) -> Float[Array, "*X {len(rows)} {len(cols)}"]:
    """`separable` of maps without channels, for matrices with few entries a row.

    The second axis is the one that costs, since the first has made the map large: there it adds
    the few rows that matter, where a product would multiply hundreds by zero.
    """
    wide = jnp.einsum("...HW,jW->...Hj", x, cols, precision=lax.Precision.HIGHEST)
    taps = int((rows != 0).sum(axis=1).max())
    # Sorted, so that sums go from left to right; what is beyond a row's entries has weight zero.
    places = np.sort(np.argsort(-np.abs(rows), axis=1, kind="stable")[:, :taps], axis=1)
    weights = np.take_along_axis(rows, places, axis=1)
    out = jnp.zeros((), x.dtype)
    for i in range(taps):
        out += weights[:, i, None] * wide[..., places[:, i], :]
    return out


def _resize(x: Array, height: int, width: int, kind: Kind) -> Array:
    sizes = zip(x.shape[-3:-1], (height, width), strict=True)
    rows, cols = (None if old == new else weights(old, new, kind) for old, new in sizes)
    return separable(x, rows, cols)


def bilinear_resize(
    x: Float[Array, "*X H W C"], height: int, width: int
) -> Float[Array, "*X {height} {width} C"]:
    """Bilinear, half-pixel, no antialias: torch's interpolate(mode="bilinear")."""
    return _resize(x, height, width, "linear")


def bicubic_resize(
    x: Float[Array, "*X H W C"], height: int, width: int
) -> Float[Array, "*X {height} {width} C"]:
    """Bicubic, half-pixel, no antialias: torch's interpolate(mode="bicubic")."""
    return _resize(x, height, width, "cubic")


def bicubic_enlarge(
    x: Float[Array, "*X H W"], height: int, width: int
) -> Float[Array, "*X {height} {width}"]:
    """`bicubic_resize` of maps without channels, by `enlarge`."""
    H, W = x.shape[-2:]
    return enlarge(x, weights(H, height, "cubic"), weights(W, width, "cubic"))


def linear_resize(table_LC: Float[Array, "L C"], length: int) -> Float[Array, "{length} C"]:
    """Linear, half-pixel: torch's interpolate(mode="linear"), along the first axis."""
    return _resize(table_LC[:, None, :], length, 1, "linear")[:, 0, :]


def resample(table_SD: Float[Array, "S D"], h: int, w: int) -> Float[Array, "{h} {w} D"]:
    """A learned table fitted to a grid of h x w cells, bicubic, or unchanged where it fits.

    S is g * g, or 1 + g * g when slot 0 belongs to a class token, which is dropped.
    """
    stored = table_SD.shape[0]
    g = int(stored**0.5)
    if stored - g * g not in (0, 1):
        raise ConfigError(f"position table has {stored} slots, but must have g * g or 1 + g * g")
    grid_ssD = table_SD[stored - g * g :].reshape(g, g, -1)
    return bicubic_resize(grid_ssD, h, w)


def sincos(h: int, w: int, width: int) -> Float[np.ndarray, "{h*w} {width}"]:
    """Fixed sine-cosine code of a grid's cells, raster order: half for columns, half for rows.

    As MAE's decoder and encoder tables (arXiv:2111.06377); channels beyond a multiple of 4 stay 0.
    """
    quarter = width // 4
    frequency = 1 / 10_000 ** (np.arange(quarter) / max(quarter, 1))
    table = np.zeros((h, w, width), np.float32)
    for axis, coordinate in enumerate((np.arange(w)[None, :], np.arange(h)[:, None])):
        angle = np.broadcast_to(coordinate, (h, w))[..., None] * frequency
        code = np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)
        table[..., axis * 2 * quarter : (axis + 1) * 2 * quarter] = code
    return table.reshape(h * w, width)


def fourier(
    coords01: Float[Array, "*X 2"], matrix_2C: Float[Array, "2 C"]
) -> Float[Array, "*X 2*C"]:
    """Random Fourier features (sine, then cosine) of (x, y) as shares of the square, in [0, 1].

    Row 0 of the matrix multiplies x (segment-anything, PositionEmbeddingRandom).
    """
    centred = 2 * coords01 - 1
    # Two terms need no matrix product, and so no question of its precision.
    angle = centred[..., :1] * matrix_2C[0] + centred[..., 1:] * matrix_2C[1]
    angle = 2 * np.pi * angle
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def dense_fourier(matrix_2C: Float[Array, "2 C"], h: int, w: int) -> Float[Array, "{h} {w} 2*C"]:
    """Fourier features of the centres of an h x w grid of cells."""
    y, x = np.meshgrid((np.arange(h) + 0.5) / h, (np.arange(w) + 0.5) / w, indexing="ij")
    return fourier(jnp.asarray(np.stack([x, y], axis=-1), jnp.float32), matrix_2C)
