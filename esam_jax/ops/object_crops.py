"""Squares around objects, cut out of pictures on the device; traceable, whatever their sizes."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def boxes(masks_BHW: Bool[Array, "B H W"]) -> Float[Array, "B 4"]:
    """(x0, y0, x1, y1), the last two behind the mask; the complete picture of an empty mask."""
    x0, x1 = _reach(masks_BHW.any(1))
    y0, y1 = _reach(masks_BHW.any(2))
    return jnp.stack([x0, y0, x1, y1], axis=1).astype(jnp.float32)


def squares(
    pixels_BHWC: Float[Array, "B H W C"],
    boxes_B4: Float[Array, "B 4"],
    enlarge_B: Float[Array, " B"],
    px: int,
) -> Float[Array, "B {px} {px} C"]:
    """The square around the middle of each box, `enlarge` times its longer side, at `px` pixels.

    Bilinear, with antialias where it shrinks; zeros outside the picture.
    """
    x0, y0, x1, y1 = boxes_B4.T
    side_B = enlarge_B * jnp.maximum(x1 - x0, y1 - y0)
    rows = _weights((y0 + y1) / 2, side_B, px, pixels_BHWC.shape[1])
    columns = _weights((x0 + x1) / 2, side_B, px, pixels_BHWC.shape[2])
    x = jnp.einsum("bsh,bhwc->bswc", rows, pixels_BHWC)
    return jnp.einsum("btw,bswc->bstc", columns, x)


def _reach(hit_BX: Bool[Array, "B X"]) -> tuple[Array, Array]:
    """The first place that is hit, and the one behind the last."""
    count = hit_BX.shape[1]
    return jnp.argmax(hit_BX, 1), count - jnp.argmax(hit_BX[:, ::-1], 1)


def _weights(
    middle_B: Float[Array, " B"], side_B: Float[Array, " B"], px: int, length: int
) -> Float[Array, "B {px} {length}"]:
    """How much of each pixel of a row is in each pixel of the square."""
    cell_B11 = (side_B / px)[:, None, None]
    centre_Bs1 = middle_B[:, None, None] + (jnp.arange(px)[:, None] + 0.5 - px / 2) * cell_B11
    far = jnp.abs(jnp.arange(length) + 0.5 - centre_Bs1) / jnp.maximum(cell_B11, 1)
    weights = jnp.maximum(1 - far, 0)
    weights /= jnp.maximum(weights.sum(-1, keepdims=True), 1e-6)
    return jnp.where((centre_Bs1 >= 0) & (centre_Bs1 < length), weights, 0)
