"""Resampling as PyTorch computes it, position tables, Fourier features of coordinates.

Released weights expect torch's resampling: half-pixel centres, no antialias, edges replicated and
bicubic with a = -0.75, where `jax.image.resize` has a = -0.5 and antialiases. Sizes are static, so
a resize is a product with one small matrix per axis, made by NumPy in float64.
"""

import functools
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from esam_jax.errors import ConfigError

Kind = Literal["linear", "cubic"]


class Taps(NamedTuple):
    """How an axis is resampled: item i is the sum of `weights[i]` times what is at `places[i]`.

    Places are in ascending order; at an edge one may occur several times.
    """

    places: Int[np.ndarray, "L _"]
    weights: Float[np.ndarray, "L _"]

    def matrix(self, old: int) -> Float[np.ndarray, "L {old}"]:
        """The same as a matrix for an axis of `old` items, float32."""
        matrix = np.zeros((len(self.places), old))
        np.add.at(matrix, (np.arange(len(matrix))[:, None], self.places), self.weights)
        return matrix.astype(np.float32)

    def after(self, first: "Taps") -> "Taps":
        """`first`, then these, in one."""
        places, weights = (part[self.places] for part in first)
        weights = self.weights[..., None] * weights
        return Taps(*(part.reshape(len(part), -1) for part in (places, weights)))

    def part(self, first: int, count: int) -> "Taps":
        """Those of `count` items from `first`; beyond the last, they are those of the last."""
        spare = ((0, max(0, first + count - len(self.places))), (0, 0))
        return Taps(*(np.pad(x[first : first + count], spare, mode="edge") for x in self))


def taps(old: int, new: int, kind: Kind) -> Taps:
    """Resamples an axis of `old` items to `new` (torch.nn.functional.interpolate), in float64."""
    centre = (np.arange(new) + 0.5) * (old / new) - 0.5
    if kind == "linear":
        centre = np.maximum(centre, 0)
    first = np.floor(centre).astype(int)
    offset = (centre - first)[:, None]
    steps = np.arange(2) if kind == "linear" else np.arange(-1, 3)
    distance = np.abs(offset - steps)
    weights = 1 - distance if kind == "linear" else _cubic(distance)
    return Taps(np.clip(first[:, None] + steps, 0, old - 1), weights)


@functools.lru_cache(maxsize=64)
def weights(old: int, new: int, kind: Kind) -> np.ndarray:
    """`taps` as a matrix [new, old], float32."""
    return taps(old, new, kind).matrix(old)


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
