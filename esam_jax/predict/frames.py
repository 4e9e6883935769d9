"""Pictures to the square model input, and masks back to the picture, as the originals do it.

EfficientSAM (`efficient_sam.py` of its release): both axes stretched to the full side; masks go
straight from the decoder's size to the picture's. SAM (`predictor.py`, `transforms.py`): the
longer side brought to the full side, the rest padded; masks pass through the size of the input.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from PIL import Image

from esam_jax.config import SamConfig
from esam_jax.ops import geometry, images, positions
from esam_jax.ops.geometry import Fit
from esam_jax.predict import full_size
from esam_jax.predict.full_size import Axes

_FEWEST_PIXELS = 4096


def to_input(image_HW3: UInt8[np.ndarray, "H W 3"], config: SamConfig) -> Float[Array, "s s 3"]:
    """The picture as the image encoder takes it: s = `config.image_px`, normalised, float32."""
    return _TO_INPUT[config.fit](image_HW3, config.image_px)


def sizes_up_to(pixels: int, config: SamConfig) -> list[tuple[int, int]]:
    """Of pictures for which `to_input` calls all the programs that so many pixels can need."""
    if config.fit == "pad":
        return [(1, 1)]
    most = _length(pixels).bit_length()
    return [(1, 1 << k) for k in range(_length(1).bit_length() - 1, most)]


def from_resized(
    image_HW3: UInt8[np.ndarray, "H W 3"] | Float[np.ndarray, "H W 3"], config: SamConfig
) -> Float[Array, "s s 3"]:
    """As `to_input`, of a picture resized already and not padded: uint8, or float32 to 255."""
    floats = image_HW3.dtype != np.uint8
    pixels = image_HW3.astype(np.float32) / 255 if floats else image_HW3
    return _framed(pixels, config.image_px)


def to_original(
    low_res: Float[Array | np.ndarray, "*X l l"], height: int, width: int, config: SamConfig
) -> Float[np.ndarray, "*X {height} {width}"]:
    """The decoder's logits enlarged to a picture of height x width pixels, float32."""
    flat = np.asarray(low_res).reshape(-1, *low_res.shape[-2:])
    axes = enlarging(height, width, config)
    full = full_size.logits(full_size.parts(flat, axes), len(flat), axes)
    return full.reshape(*low_res.shape[:-2], height, width)


def enlarging(height: int, width: int, config: SamConfig) -> Axes:
    """How rows and columns of a picture's logits are made of those of the decoder's."""
    side, px = config.low_res_px, config.image_px
    if config.fit == "stretch":
        return Axes(positions.taps(side, height, "cubic"), positions.taps(side, width, "cubic"))
    # SAM's three steps (to the input's size, padding cut off, to the picture's) in one: no mask is
    # ever stored at the size of the input.
    to_input = positions.taps(side, px, "linear")
    inner = geometry.longest_side(height, width, px)
    sizes = zip(inner, (height, width), strict=True)
    return Axes(*(positions.taps(old, new, "linear").after(to_input) for old, new in sizes))


def valid(height: int, width: int, config: SamConfig) -> tuple[int, int]:
    """Rows and columns of the decoder's logits that lie on the picture, not on its padding."""
    side, px = config.low_res_px, config.image_px
    inner = geometry.inside(height, width, px, config.fit)
    rows, columns = (max(1, round(n * side / px)) for n in inner)
    return rows, columns


# Sizes are data: a picture is a list of pixels of one of few lengths, or a square already.


def _pad(image_HW3: UInt8[np.ndarray, "H W 3"], px: int) -> Float[Array, "{px} {px} 3"]:
    # PIL rounds to uint8 and antialiases when it shrinks; SAM was trained on exactly that.
    H, W = image_HW3.shape[:2]
    height, width = geometry.longest_side(H, W, px)
    resized = Image.fromarray(image_HW3).resize((width, height), Image.Resampling.BILINEAR)
    return _framed(np.asarray(resized), px)


def _framed(image_HW3: np.ndarray, px: int) -> Float[Array, "{px} {px} 3"]:
    """In the top-left corner of a square; uint8, or float32 in [0, 1]."""
    height, width = image_HW3.shape[:2]
    square = np.zeros((px, px, 3), image_HW3.dtype)
    square[:height, :width] = image_HW3
    return _normalised(square, np.array([height, width], np.int32))


@jax.jit
def _normalised(
    square_ss3: UInt8[Array, "s s 3"] | Float[Array, "s s 3"], size: Int[Array, "2"]
) -> Float[Array, "s s 3"]:
    """Beside the picture it has the mean colour, which normalised is 0."""
    s = len(square_ss3)
    on_picture = (jnp.arange(s)[:, None] < size[0]) & (jnp.arange(s) < size[1])
    return jnp.where(on_picture[..., None], images.normalise(square_ss3), 0)


def _length(pixels: int) -> int:
    return max(_FEWEST_PIXELS, 1 << (pixels - 1).bit_length())


def _stretch(image_HW3: UInt8[np.ndarray, "H W 3"], px: int) -> Float[Array, "{px} {px} 3"]:
    H, W = image_HW3.shape[:2]
    pixels = np.zeros((_length(H * W), 3), np.uint8)
    pixels[: H * W] = image_HW3.reshape(-1, 3)
    rows, columns = (positions.taps(old, px, "linear") for old in (H, W))
    first = rows.places.astype(np.int32) * W
    return _stretched(
        pixels,
        first,
        rows.weights.astype(np.float32),
        columns.places.astype(np.int32),
        columns.weights.astype(np.float32),
    )


@jax.jit
def _stretched(
    pixels: UInt8[Array, "L 3"],
    first: Int[Array, "s 2"],
    row_weights: Float[Array, "s 2"],
    columns: Int[Array, "s 2"],
    column_weights: Float[Array, "s 2"],
) -> Float[Array, "s s 3"]:
    """`ops.images.stretch`, normalised; rows begin at the pixels `first`."""

    def along_rows(x: Int[Array, " s"]) -> Float[Array, "s s 3"]:
        taps = [pixels.at[y[:, None] + x].get(mode="promise_in_bounds") for y in first.T]
        floats = [tap.astype(jnp.float32) / 255 for tap in taps]
        weighted = [w[:, None, None] * x for w, x in zip(row_weights.T, floats, strict=True)]
        return weighted[0] + weighted[1]

    left, right = (along_rows(x) for x in columns.T)
    w = column_weights[..., None]
    return images.normalise(w[:, 0] * left + w[:, 1] * right)


_TO_INPUT: Mapping[Fit, Callable[[np.ndarray, int], Array]] = {"stretch": _stretch, "pad": _pad}
