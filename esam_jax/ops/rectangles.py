"""Rectangles of pictures, one a picture, as [top, left, bottom, right] in pixels of the picture.

The first two lie inside of a rectangle, the last two outside; an empty one has no pixel.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

EVERYTHING = np.array([0, 0, 2**30, 2**30], np.int32)  # of a picture of any size


def inside(box_B4: Int[Array, "B 4"], height: int, width: int) -> Bool[Array, "B H W 1"]:
    """Whether each pixel lies in the rectangle of its picture."""
    top, left, bottom, right = (edge[:, None, None, None] for edge in box_B4.T)
    row, column = jnp.arange(height)[:, None, None], jnp.arange(width)[:, None]
    return (top <= row) & (row < bottom) & (left <= column) & (column < right)


def erased(
    pixels_BHW3: Float[Array, "B H W 3"], box_B4: Int[Array, "B 4"], seed_B2: UInt32[Array, "B 2"]
) -> Float[Array, "B H W 3"]:
    """Standard normal noise in place of the pixels in the rectangle (random erasing,
    arXiv:1708.04896; timm's mode "pixel"). Each picture has the noise of its own seed."""
    height, width = pixels_BHW3.shape[1:3]

    def noise(seed: Array) -> Array:
        return jax.random.normal(jax.random.wrap_key_data(seed), pixels_BHW3.shape[1:])

    return jnp.where(inside(box_B4, height, width), jax.vmap(noise)(seed_B2), pixels_BHW3)
