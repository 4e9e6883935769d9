"""The documented ways of clicking on an object that is to be found.

uniform        all clicks uniform in the mask, whatever the model answers (EfficientSAM,
               arXiv:2312.00863, section 4.3)
centre         the first one deepest in the mask, each further one deepest in what is wrong
               with the answer before (SAM, arXiv:2304.02643, section D.1)
random_first   as centre, but the first one uniform in the mask (SAM's variant)
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32

from esam_jax.data import prompts as drawing
from esam_jax.data.bitmaps import Bitmap
from esam_jax.typing import BACKGROUND, FOREGROUND

Click = Literal["uniform", "centre", "random_first"]
RANDOM: tuple[Click, ...] = ("uniform", "random_first")  # which the seed decides

_Point = Float32[np.ndarray, " 2"]


def uniform(rng: np.random.Generator, mask: Bitmap, count: int) -> list[_Point]:
    """(x, y) of pixels inside, each drawn by itself; fewer are the first of more."""
    return [drawing.uniform_point(rng, mask) for _ in range(count)]


def following(
    mask: Bool[np.ndarray, "H W"],
    found: Bool[np.ndarray, "H W"],
    clicked: Sequence[_Point],
    *,
    background: bool,
) -> tuple[_Point, int] | None:
    """The next click, and its label: deepest in what is missing or in what is too much.

    Of the two, where there are more pixels. None where nothing is wrong. Without `background`
    points, what is missing alone; where nothing is, deepest in the mask and far from where was
    `clicked`; None where every pixel was.
    """
    missing = mask & ~found
    if background:
        extra = found & ~mask
        if not missing.any() and not extra.any():
            return None
        if np.count_nonzero(extra) > np.count_nonzero(missing):
            return drawing.centre_point(Bitmap.of(extra)), BACKGROUND
        return drawing.centre_point(Bitmap.of(missing)), FOREGROUND
    if not missing.any():
        missing = mask.copy()
        for x, y in clicked:
            missing[int(y), int(x)] = False
    return (drawing.centre_point(Bitmap.of(missing)), FOREGROUND) if missing.any() else None
