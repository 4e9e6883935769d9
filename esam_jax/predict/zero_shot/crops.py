"""The picture of an object that CLIP sees: three styles of cutting it out of its picture.

- `white_frame` is FastSAM's: the complete picture, white outside the bounding box of the mask.
  CLIP looks at the square in the middle, so that what lies at the ends of a long picture is lost.
- `tight` is the box, enlarged to a square, as SAM enlarges it 1 to 2 times for its text prompts
  (arXiv:2304.02643, D.5).
- `cut_out` is the same square with the mask alone in it, as half of SAM's are.

No paper says what becomes of a square that reaches over the edge of its picture: here it moves
inside, and where the picture is too narrow for it, the rest has the colour of the background.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, UInt8

from esam_jax.errors import PromptError
from esam_jax.ops import images, regions
from esam_jax.predict.everything import arguments

Style = Literal["white_frame", "tight", "cut_out"]
Background = Literal["mean", "white", "black"]

STYLES: tuple[Style, ...] = ("white_frame", "tight", "cut_out")
ENLARGED = 1.5  # in the middle of SAM's 1 to 2

_RED, _GREEN, _BLUE = (round(255 * each) for each in images.CLIP_MEAN.tolist())
_COLOURS: Mapping[str, tuple[int, int, int]] = {
    # 0 once it is normalised, as nearly as bytes can say it.
    "mean": (_RED, _GREEN, _BLUE),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}


def require(style: Any, enlarge: Any, background: Any) -> None:
    """PromptError names the argument that is none, or that the style has no use for."""
    arguments.require_one_of("crop_style", style, STYLES)
    given = {"enlarge": enlarge, "background": background}
    if style == "white_frame":
        for name, value in given.items():
            if value is not None:
                raise PromptError.of(
                    name,
                    f"is {value!r:.80}, but the crop style white_frame is not enlarged, and always "
                    "white: leave it out, or choose tight or cut_out",
                )
    if enlarge is not None:
        arguments.require_between(1.0, 2.0, {"enlarge": enlarge})
    if background is not None:
        arguments.require_one_of("background", background, tuple(_COLOURS))


def of_mask(
    picture: UInt8[np.ndarray, "H W 3"],
    mask: Bool[np.ndarray, "H W"],
    style: str,
    enlarge: float | None = None,
    background: str | None = None,
) -> UInt8[np.ndarray, "_ _ 3"]:
    """The crop of a mask that has a pixel.

    enlarge: side of the square in longer sides of the box, 1.5 when None. background: its colour,
    CLIP's mean when None.
    """
    box = regions.mask_box(mask)
    if style == "white_frame":
        return white_frame(picture, box)
    colour = _COLOURS[background or "mean"]
    seen = picture
    if style == "cut_out":
        seen = np.where(mask[..., None], picture, np.array(colour, np.uint8))
    return square(seen, box, ENLARGED if enlarge is None else enlarge, colour)


def white_frame(
    picture: UInt8[np.ndarray, "H W 3"], box: tuple[int, int, int, int]
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture, white outside the box (x, y, width, height)."""
    x, y, width, height = box
    framed = np.full_like(picture, 255)
    framed[y : y + height, x : x + width] = picture[y : y + height, x : x + width]
    return framed


def square(
    picture: UInt8[np.ndarray, "H W 3"],
    box: tuple[int, int, int, int],
    enlarge: float,
    colour: tuple[int, int, int],
) -> UInt8[np.ndarray, "s s 3"]:
    """The square around the middle of the box, `enlarge` times as wide as its longer side."""
    x, y, width, height = box
    side = max(1, math.floor(enlarge * max(width, height) + 0.5))
    left = _inside(x + (width - side) // 2, side, picture.shape[1])
    top = _inside(y + (height - side) // 2, side, picture.shape[0])
    if 0 <= left <= picture.shape[1] - side and 0 <= top <= picture.shape[0] - side:
        return picture[top : top + side, left : left + side]
    canvas = np.full((side, side, 3), colour, np.uint8)
    part = picture[max(top, 0) : top + side, max(left, 0) : left + side]
    down, across = max(-top, 0), max(-left, 0)
    canvas[down : down + part.shape[0], across : across + part.shape[1]] = part
    return canvas


def _inside(start: int, side: int, length: int) -> int:
    """Where a stretch of `side` begins that lies inside `length`, or has it in its middle."""
    if side > length:
        return (length - side) // 2
    return min(max(start, 0), length - side)
