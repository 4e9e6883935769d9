"""Points between the frame of a picture and the frame of a model's square input.

Everything works on NumPy arrays (float64 inside, as the originals) and on JAX arrays alike.
`fit` is how the picture was brought to the square: "stretch" scales each axis to the full side
(EfficientSAM), "pad" keeps the aspect ratio and pads at the bottom and right (SAM).
"""

from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from esam_jax.config.wirings import Fit


def longest_side(height: int, width: int, px: int) -> tuple[int, int]:
    """Height and width after scaling the longer side to `px`, rounded half up as SAM does.

    Never less than 1, where SAM's own rule makes a line of one pixel vanish.
    """
    scale = px / max(height, width)
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


_INSIDE: Mapping[Fit, Callable[[int, int, int], tuple[int, int]]] = {
    "stretch": lambda height, width, px: (px, px),
    "pad": longest_side,
}


def inside(height: int, width: int, px: int, fit: Fit) -> tuple[int, int]:
    """Height and width of the picture within the px x px model input."""
    return _INSIDE[fit](height, width, px)


def _factors(height: int, width: int, px: int, fit: Fit) -> np.ndarray:
    """Model pixels per picture pixel, (x, y)."""
    new_height, new_width = inside(height, width, px, fit)
    return np.array([new_width / width, new_height / height])


def to_model(
    points: Num[Array | np.ndarray, "*X 2"],
    height: int,
    width: int,
    px: int,
    fit: Fit,
    *,
    negative: Literal["keep", "minus_one"] = "keep",
) -> Float[Array | np.ndarray, "*X 2"]:
    """(x, y) in pixels of the picture -> float32 (x, y) in pixels of the px x px model input.

    EfficientSAM's original turns a coordinate below 0 into exactly -1, each axis on its own:
    `negative="minus_one"` does so, for comparing with it.
    """
    xp = jnp if isinstance(points, jax.Array) else np
    scaled = points * _factors(height, width, px, fit)
    if negative == "minus_one":
        scaled = xp.where(points < 0, -1.0, scaled)
    return scaled.astype(np.float32)


def to_image(
    points: Num[Array | np.ndarray, "*X 2"], height: int, width: int, px: int, fit: Fit
) -> Float[Array | np.ndarray, "*X 2"]:
    """(x, y) in pixels of the px x px model input -> float32 (x, y) in pixels of the picture."""
    return (points / _factors(height, width, px, fit)).astype(np.float32)
