"""Saliency maps without a saliency network: contrast of the masks of everything, and the centre.

The contrast is this project's own, of known parts: what differs from its surround is salient
(Itti, Koch and Niebur, PAMI 1998), what reaches along the border of the picture is background (Zhu,
Liang, Wei and Sun, CVPR 2014, boundary connectivity), and people point cameras at what they mean
(the centre prior). A mask of A pixels has the score

    distance * centre * exp(-(E / sqrt(A))^2 / 2) * min(1, A / 2 % of the picture)

where `distance` is that of the mean colours in CIELAB of the mask and of the pixels within
sqrt(A) / 2 of it, `centre` the mean of the centre prior over the mask, and E the pixels of the
picture's border in it. The map is the highest score of the masks over each pixel, scaled to 1.
"""

import copy
import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from PIL import Image

from esam_jax.ops import regions
from esam_jax.predict import picture_array
from esam_jax.predict.everything.generator import AutomaticMaskGenerator
from esam_jax.predict.sam import Sam

POINTS_PER_SIDE = 16  # a salient object is not small: a quarter of the clicks of everything
_LONG_PX = 160  # of the picture in which colours are compared
_CENTRE = 0.5  # deviation of the centre prior, in halves of a side
_SURROUND = 0.5  # how far the surround of a mask reaches, in square roots of its area
_SMALL = 0.02  # a share of the picture below which a mask counts for less
# sRGB to CIE XYZ for the white of D65 (IEC 61966-2-1), each row divided by that white.
_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
) / np.array([[0.95047], [1.0], [1.08883]])


@dataclasses.dataclass(frozen=True)
class Centre:
    """The centre prior alone, to be called with pictures: what any map has to surpass."""

    def on(self, device: jax.Device) -> "Centre":
        """The same: no device takes part."""
        return self

    def __call__(self, picture: Any) -> Float32[np.ndarray, "H W"]:
        return centre(*picture_array.of(picture, "picture").shape[:2])


class Contrast:
    """The contrast of everything in a picture, by the masks of a promptable model.

    `options` are those of `AutomaticMaskGenerator`, with 16 x 16 clicks by default.
    """

    def __init__(self, sam: Sam, **options: Any) -> None:
        options = {"points_per_side": POINTS_PER_SIDE, **options}
        self.generator = AutomaticMaskGenerator(sam, output_mode="coco_rle", **options)

    def on(self, device: jax.Device) -> "Contrast":
        """The same on that device."""
        return self.by(self.generator.model.on(device))

    def by(self, sam: Sam) -> "Contrast":
        """The same with the masks of another model, or of a copy of this one."""
        copied = copy.copy(self)
        copied.generator = copy.copy(self.generator)
        copied.generator.model = sam
        return copied

    def __call__(self, picture: Any) -> Float32[np.ndarray, "H W"]:
        """From 0 to 1, of the picture's size; all 0 where no mask differs from its surround."""
        picture = picture_array.of(picture, "picture")
        found = self.generator.generate(picture)
        return of_masks(picture, (regions.from_rle(each["segmentation"]) for each in found))


def of_masks(
    picture: UInt8[np.ndarray, "H W 3"], masks: Iterable[Bool[np.ndarray, "H W"]]
) -> Float32[np.ndarray, "H W"]:
    """The map of these masks, as at the top of this file; a mask is as sharp in it as it was."""
    scale = min(1.0, _LONG_PX / max(picture.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    small = Image.fromarray(picture).resize((width, height), Image.Resampling.BOX)
    colours, prior = lab(np.asarray(small)), centre(height, width)
    found = np.zeros(picture.shape[:2], np.float32)
    for mask in masks:
        image = Image.fromarray(np.ascontiguousarray(mask))
        reduced = np.asarray(image.resize((width, height), Image.Resampling.NEAREST))
        np.maximum(found, score(colours, prior, reduced), out=found, where=mask)
    highest = float(found.max())
    return found / highest if highest > 0 else found


def score(
    colours: Float[np.ndarray, "H W 3"],
    prior: Float[np.ndarray, "H W"],
    mask: Bool[np.ndarray, "H W"],
) -> float:
    """Of one mask; 0 for one without pixels or without a surround."""
    from scipy import ndimage  # here, since few need it and it is slow to import

    area = int(mask.sum())
    if not 0 < area < mask.size:
        return 0.0
    away = ndimage.distance_transform_edt(~mask)
    surround = ~mask & (away <= 1 + _SURROUND * area**0.5)
    distance = np.linalg.norm(colours[mask].mean(0) - colours[surround].mean(0))
    frame = np.ones(mask.shape, bool)
    frame[1:-1, 1:-1] = False
    along = int((mask & frame).sum()) / area**0.5
    small = min(1.0, area / (_SMALL * mask.size))
    return float(distance * prior[mask].mean() * np.exp(-(along**2) / 2) * small)


def centre(height: int, width: int) -> Float32[np.ndarray, "{height} {width}"]:
    """A Gaussian around the middle of a picture, 1 at its highest pixel."""
    squares = [
        np.square((np.arange(side) + 0.5) / side * 2 - 1) / _CENTRE**2 for side in (height, width)
    ]
    prior = np.exp(-(squares[0][:, None] + squares[1]) / 2)
    return (prior / prior.max()).astype(np.float32)


def lab(picture: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
    """CIELAB of an sRGB picture: lightness from 0 to 100, and two axes of colour."""
    values = picture / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _XYZ.T
    # CIE 15: a straight line near black, so that its slope stays finite.
    roots = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = np.moveaxis(roots, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
