"""Pixels on the device: normalising, stretching, pooling, unpacking masks."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from esam_jax.ops import positions

# ImageNet's, in [0, 1]. SAM's constants are these times 255, so one tensor serves both networks.
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)

# CLIP's, in [0, 1] (openai/CLIP, clip.py: _transform).
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711])

HALF = np.array([0.5, 0.5, 0.5], np.float32)  # mean and deviation that give -1 to 1


def normalise(
    image: UInt8[Array, "*X H W 3"] | Float[Array, "*X H W 3"],
    mean: Float[np.ndarray, " 3"] = MEAN,
    std: Float[np.ndarray, " 3"] = STD,
) -> Float[Array, "*X H W 3"]:
    """RGB, uint8 or float32 in [0, 1], to float32 normalised by ImageNet's mean and deviation, or
    others."""
    if image.dtype == jnp.uint8:
        image = image.astype(jnp.float32) / 255
    return (image - mean.astype(np.float32)) / std.astype(np.float32)


def unit(pixels: Float[Array, "*X H W 3"]) -> Float[Array, "*X H W 3"]:
    """What `normalise` was given with ImageNet's constants, as [0, 1]; noise may lie outside."""
    return pixels * STD + MEAN


def as_picture(pixels: Float[Array, "*X H W 3"]) -> UInt8[Array, "*X H W 3"]:
    """What `normalise` was given, rounded; values that no picture has are cut."""
    return jnp.clip(jnp.rint(unit(pixels) * 255), 0, 255).astype(jnp.uint8)


def stretch(image_BHWC: UInt8[Array, "B H W C"], px: int) -> Float[Array, "B {px} {px} C"]:
    """The picture as a px x px square in [0, 1]: EfficientSAM's input, aspect ratio not kept.

    Bilinear without antialias even when shrinking, as the released weights expect.
    """
    return positions.bilinear_resize(image_BHWC.astype(jnp.float32) / 255, px, px)


def area_pool(
    x_BhwC: Float[Array, "B h w C"], rows: int, cols: int
) -> Float[Array, "B {rows} {cols} C"]:
    """Mean over each of rows x cols equal rectangles; a cell on a border counts in proportion."""
    _, h, w, _ = x_BhwC.shape
    return positions.separable(x_BhwC, _shares(h, rows), _shares(w, cols))


def _shares(old: int, new: int) -> Float[np.ndarray, "{new} {old}"]:
    """Row i: how much of the i-th of `new` equal intervals each of `old` cells covers."""
    left = np.arange(new)[:, None] * old / new
    right = left + old / new
    cell = np.arange(old)[None, :]
    covered = np.minimum(right, cell + 1) - np.maximum(left, cell)
    return (np.maximum(covered, 0) * new / old).astype(np.float32)


def unpack_bits(packed: UInt8[Array, "*X L"]) -> Bool[Array, "*X 8*L"]:
    """What `numpy.packbits(mask, axis=-1)` packed, high bit first."""
    shifts = jnp.arange(7, -1, -1, dtype=jnp.uint8)
    bits = (packed[..., None] >> shifts) & 1
    return bits.reshape(*packed.shape[:-1], -1).astype(bool)
