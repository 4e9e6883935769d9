"""Points and boxes drawn from a mask. Coordinates are (x, y); whole numbers are pixel centres."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32

from esam_jax.data.bitmaps import Bitmap
from esam_jax.errors import DataError
from esam_jax.typing import BOTTOM_RIGHT, FOREGROUND, PADDING, PADDING_XY, TOP_LEFT

Noise = Literal["normal", "uniform"]
Prompt = tuple[Float32[np.ndarray, "2 2"], Int32[np.ndarray, " 2"]]


def first_prompt(
    rng: np.random.Generator,
    mask: Bitmap,
    *,
    box_share: float,
    box_noise: float,
    box_noise_max_px: float,
    box_noise_as: Noise = "normal",
) -> Prompt:
    """A noisy box around the mask with a chance of `box_share`, else a point in it.

    The first prompt of SAM's training (arXiv:2304.02643, section A), where chances are equal.
    Always two slots: a point is followed by padding, a box is its two corners. DataError for an
    empty mask.
    """
    if rng.random() < 1 - box_share:
        point = uniform_point(rng, mask)
        points = np.stack([point, np.full(2, PADDING_XY, np.float32)])
        return points, np.array([FOREGROUND, PADDING], np.int32)
    box = noisy_box(rng, mask, share=box_noise, max_px=box_noise_max_px, noise=box_noise_as)
    return box.reshape(2, 2), np.array([TOP_LEFT, BOTTOM_RIGHT], np.int32)


def uniform_point(rng: np.random.Generator, mask: Bitmap) -> Float32[np.ndarray, " 2"]:
    """(x, y) of a pixel inside, each with the same chance; DataError for an empty mask."""
    area = mask.area()
    if not area:
        raise DataError("no point can be drawn from an empty mask")
    return np.array(mask.pixel(int(rng.integers(area))), np.float32)


def tight_box(mask: Bitmap) -> Float32[np.ndarray, " 4"]:
    """(x0, y0, x1, y1) of the outermost pixels inside; DataError for an empty mask."""
    box = mask.box()
    if box is None:
        raise DataError("an empty mask has no box")
    return np.array(box, np.float32)


def noisy_box(
    rng: np.random.Generator,
    mask: Bitmap,
    *,
    share: float,
    max_px: float,
    noise: Noise = "normal",
) -> Float32[np.ndarray, " 4"]:
    """The tight box with each coordinate moved, cut at the frame, corners never exchanged.

    "normal" is the paper's rule: a standard deviation of `share` of the side, at most `max_px`
    pixels (arXiv:2304.02643, section A). "uniform" is that of SAM 2's training code: even chances
    between plus and minus `share` of the side, or `max_px` where that is less (sam2_utils.py).
    """
    box = tight_box(mask)
    sides = box[[2, 3, 2, 3]] - box[[0, 1, 0, 1]] + 1
    if noise == "normal":
        moved = (rng.normal(size=4) * share * sides).clip(-max_px, max_px)
    else:
        moved = rng.uniform(-1, 1, size=4) * np.minimum(share * sides, max_px)
    frame = np.array([mask.width - 1, mask.height - 1], np.float32)
    corners = (box + moved.astype(np.float32)).reshape(2, 2).clip(0, frame)
    # Strong noise on a thin box may carry one corner past the other.
    return np.sort(corners, axis=0).reshape(4)


def centre_point(mask: Bitmap) -> Float32[np.ndarray, " 2"]:
    """(x, y) of the pixel farthest from the outside, the first in reading order of several.

    SAM's evaluation point (arXiv:2304.02643, section D.1). The frame counts as outside. DataError
    for an empty mask.
    """
    x0, y0, x1, y1 = tight_box(mask).astype(int)
    squared = squared_distance(mask.dense()[y0 : y1 + 1, x0 : x1 + 1])
    y, x = divmod(int(squared.argmax()), squared.shape[1])
    return np.array([x0 + x, y0 + y], np.float32)


def squared_distance(mask: Bool[np.ndarray, "H W"]) -> Float64[np.ndarray, "H W"]:
    """Squared distance from each pixel inside to the nearest one outside, exact; 0 outside.

    The frame counts as outside.
    """
    from scipy import ndimage  # here, since training that draws uniform points does without it

    distance = np.asarray(ndimage.distance_transform_edt(np.pad(mask, 1)), np.float64)
    return np.rint(distance[1:-1, 1:-1] ** 2)  # of integers, which the root had rounded
