"""Pictures to the square model input, and masks back to the picture, as the originals do it.

EfficientSAM (`efficient_sam.py` of its release): both axes stretched to the full side; masks go
straight from the decoder's size to the picture's. SAM (`predictor.py`, `transforms.py`): the
longer side brought to the full side, the rest padded; masks pass through the size of the input.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from esam_jax.config import SamConfig
from esam_jax.ops import geometry, images, positions
from esam_jax.ops.geometry import Fit


def to_input(image_HW3: UInt8[np.ndarray, "H W 3"], config: SamConfig) -> Float[Array, "s s 3"]:
    """The picture as the image encoder takes it: s = `config.image_px`, normalised, float32."""
    return _FITS[config.fit].to_input(image_HW3, config.image_px)


def to_original(
    low_res: Float[Array | np.ndarray, "*X l l"], height: int, width: int, config: SamConfig
) -> Float[Array, "*X {height} {width}"]:
    """The decoder's logits enlarged to a picture of height x width pixels, float32."""
    return _FITS[config.fit].to_original(low_res, height, width, config.image_px)


def enlarging(
    height: int, width: int, config: SamConfig
) -> tuple[Float[np.ndarray, "{height} l"], Float[np.ndarray, "{width} l"]]:
    """Matrices for rows and columns of the decoder's logits that do what `to_original` does."""
    side = config.low_res_px
    if config.fit == "stretch":
        return positions.weights(side, height, "cubic"), positions.weights(side, width, "cubic")
    inner = geometry.longest_side(height, width, config.image_px)
    sizes = zip(inner, (height, width), strict=True)
    rows, columns = (_through_input(side, config.image_px, *each) for each in sizes)
    return rows, columns


def valid(height: int, width: int, config: SamConfig) -> tuple[int, int]:
    """Rows and columns of the decoder's logits that lie on the picture, not on its padding."""
    side, px = config.low_res_px, config.image_px
    inner = geometry.inside(height, width, px, config.fit)
    rows, columns = (max(1, round(n * side / px)) for n in inner)
    return rows, columns


def _pad(image_HW3: UInt8[np.ndarray, "H W 3"], px: int) -> Float[Array, "{px} {px} 3"]:
    # PIL rounds to uint8 and antialiases when it shrinks; SAM was trained on exactly that.
    H, W = image_HW3.shape[:2]
    height, width = geometry.longest_side(H, W, px)
    resized = Image.fromarray(image_HW3).resize((width, height), Image.Resampling.BILINEAR)
    pixels = images.normalise(jnp.asarray(np.asarray(resized)))
    # Padded after normalising, so that what is beside the picture has the mean colour.
    below, beside = px - height, px - width
    return jnp.pad(pixels, ((0, below), (0, beside), (0, 0)))


@functools.partial(jax.jit, static_argnames="px")
def _stretch(image_HW3: UInt8[Array, "H W 3"], px: int) -> Float[Array, "{px} {px} 3"]:
    return images.normalise(images.stretch(image_HW3[None], px)[0])


@functools.partial(jax.jit, static_argnames=("height", "width", "px"))
def _bicubic(
    low_res: Float[Array, "*X l l"], height: int, width: int, px: int
) -> Float[Array, "*X {height} {width}"]:
    return positions.bicubic_enlarge(low_res.astype(jnp.float32), height, width)


@functools.partial(jax.jit, static_argnames=("height", "width", "px"))
def _unpad(
    low_res: Float[Array, "*X l l"], height: int, width: int, px: int
) -> Float[Array, "*X {height} {width}"]:
    side, inner = low_res.shape[-1], geometry.longest_side(height, width, px)
    rows = _through_input(side, px, inner[0], height)
    cols = _through_input(side, px, inner[1], width)
    return positions.enlarge(low_res.astype(jnp.float32), rows, cols)


@functools.lru_cache(maxsize=64)
def _through_input(side: int, px: int, inner: int, size: int) -> Float[np.ndarray, "{size} {side}"]:
    """SAM's three steps along one axis (to the input's size, padding cut off, to the picture's).

    Each is linear, so doing them to unit vectors gives the one matrix that does them all; no mask
    is ever stored at the size of the input.
    """
    with jax.ensure_compile_time_eval():
        enlarged = positions.linear_resize(jnp.eye(side), px)
        return np.asarray(positions.linear_resize(enlarged[:inner], size))


class _Fit(NamedTuple):
    """How pictures go to the square input of px pixels, and logits back to the picture."""

    to_input: Callable[[np.ndarray, int], Array]
    to_original: Callable[[Array | np.ndarray, int, int, int], Array]


_FITS: Mapping[Fit, _Fit] = {
    "stretch": _Fit(_stretch, _bicubic),
    "pad": _Fit(_pad, _unpad),
}
