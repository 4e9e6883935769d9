"""Augmentation of views: another scale and cut of the picture, other colours."""

import dataclasses

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageEnhance

from esam_jax.data.views import resize

_HUE_SHARE = 1 / 4  # of the strength: a turn of the colour wheel is 1


@dataclasses.dataclass(frozen=True)
class Cut:
    """A picture of height x width, resized, of which a window of at most side x side is seen.

    `top` and `left` are the window's corner in the resized picture.
    """

    height: int
    width: int
    resized: tuple[int, int]
    side: int
    top: int = 0
    left: int = 0

    @property
    def seen(self) -> tuple[int, int]:
        """Height and width of the window."""
        return min(self.resized[0], self.side), min(self.resized[1], self.side)

    def rows(self) -> Integer[np.ndarray, " Y"]:
        """Which row of the picture each row of the window shows."""
        return resize.nearest(self.height, self.resized[0])[self.top : self.top + self.side]

    def columns(self) -> Integer[np.ndarray, " X"]:
        """The same of columns, not mirrored."""
        return resize.nearest(self.width, self.resized[1])[self.left : self.left + self.side]

    def window(self, resized: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
        """The window of the resized picture."""
        height, width = self.seen
        return resized[self.top : self.top + height, self.left : self.left + width]


def jitter(height: int, width: int, side: int, fit: str, scale: float, place: float) -> Cut:
    """Large-scale jitter (arXiv:2012.07177): the picture at `scale` times the size that fits, and
    the window that lies at the share `place` of what is too much, along both axes.

    As detectron2's ResizeScale and FixedSizeCrop: one share for both axes, round half to even.
    """
    if fit == "stretch":
        resized = round(side * scale), round(side * scale)
    else:
        share = min(side * scale / height, side * scale / width)
        resized = round(height * share), round(width * share)
    resized = max(1, resized[0]), max(1, resized[1])
    top, left = (round(place * max(0, size - side)) for size in resized)
    return Cut(height, width, resized, side, top, left)


def draw_jitter(
    rng: np.random.Generator,
    height: int,
    width: int,
    side: int,
    fit: str,
    scales: tuple[float, float],
) -> Cut:
    """A scale drawn evenly from the range, and a place for the window."""
    return jitter(height, width, side, fit, rng.uniform(*scales), rng.random())


def recoloured(
    rng: np.random.Generator, image: UInt8[np.ndarray, "H W 3"], strength: float
) -> UInt8[np.ndarray, "H W 3"]:
    """Brightness, contrast and saturation times 1 - strength to 1 + strength, and the hue turned by
    up to a quarter of that; in an order that is drawn (torchvision's ColorJitter)."""
    factors = rng.uniform(max(0.0, 1 - strength), 1 + strength, size=3).tolist()
    turn = rng.uniform(-strength, strength) * _HUE_SHARE
    picture = Image.fromarray(image)
    for number in rng.permutation(4).tolist():
        if number < 3:
            picture = _ENHANCERS[number](picture).enhance(factors[number])
        else:
            picture = _turned(picture, turn)
    return np.asarray(picture)


_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def _turned(picture: Image.Image, turn: float) -> Image.Image:
    """The hues of a picture turned by a share of the colour wheel."""
    hue, saturation, value = picture.convert("HSV").split()
    turned = np.asarray(hue) + np.uint8(round(turn * 255) % 256)  # wraps around, as hues do
    channels = (Image.fromarray(turned), saturation, value)
    return Image.merge("HSV", channels).convert("RGB")
