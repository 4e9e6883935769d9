"""RandAugment (arXiv:1909.13719) on Pillow, as timm's "rand-mM-mstdD-inc1" has it.

Fifteen operations (timm/data/auto_augment.py, _RAND_INCREASING_TRANSFORMS), some of which are
drawn, with replacement; each is then applied with an even chance, in the order drawn, at a
magnitude that is drawn from a normal distribution and cut to 0 to 10. Each gets stronger with it.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from esam_jax.config import RandAugmentConfig

FILL = (124, 116, 104)  # the mean colour of ImageNet, where an operation shows nothing
_STRONGEST = 10.0
_CHANCE = 0.5  # of an operation that was drawn
_DARKER = 128  # what SolarizeAdd brightens


def augmented(
    rng: np.random.Generator, picture: Image.Image, config: RandAugmentConfig
) -> Image.Image:
    """The picture after operations that are drawn."""
    for number in rng.integers(len(OPERATIONS), size=config.operations).tolist():
        applies, sign = rng.random() < _CHANCE, 1 if rng.random() < 0.5 else -1
        magnitude = float(np.clip(rng.normal(config.magnitude, config.deviation), 0, _STRONGEST))
        if applies:
            operation, strength = list(OPERATIONS.values())[number]
            picture = operation(picture, *strength(magnitude / _STRONGEST, sign))
    return picture


# ------------------------------------------- (share of the strongest, sign) -> arguments


def _nothing(share: float, sign: int) -> tuple[float, ...]:
    return ()


def _signed(most: float, share: float, sign: int) -> tuple[float, ...]:
    return (sign * most * share,)


def _factor(share: float, sign: int) -> tuple[float, ...]:
    """1 leaves a picture as it is."""
    return (max(0.1, 1 + sign * 0.9 * share),)


def _bits(share: float, sign: int) -> tuple[int, ...]:
    """That are kept of eight."""
    return (4 - int(4 * share),)


def _threshold(share: float, sign: int) -> tuple[int, ...]:
    return (256 - int(256 * share),)


def _added(share: float, sign: int) -> tuple[int, ...]:
    return (int(110 * share),)


# --------------------------------------------------------------------------------- operations


def _enhanced(enhancer: Any, picture: Image.Image, factor: float) -> Image.Image:
    return enhancer(picture).enhance(factor)


def _rotated(picture: Image.Image, degrees: float) -> Image.Image:
    return picture.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=FILL)


def _brightened(picture: Image.Image, added: int) -> Image.Image:
    table = [min(255, i + added) if i < _DARKER else i for i in range(256)]
    return picture.point(3 * table)


def _moved(
    picture: Image.Image, *, shear: tuple[float, float], by: tuple[float, float]
) -> Image.Image:
    """Where each pixel of the result lies in the picture."""
    matrix = (1, shear[0], by[0] * picture.width, shear[1], 1, by[1] * picture.height)
    affine, bicubic = Image.Transform.AFFINE, Image.Resampling.BICUBIC
    return picture.transform(picture.size, affine, matrix, bicubic, fillcolor=FILL)


def _sheared_across(picture: Image.Image, share: float) -> Image.Image:
    return _moved(picture, shear=(share, 0.0), by=(0.0, 0.0))


def _sheared_down(picture: Image.Image, share: float) -> Image.Image:
    return _moved(picture, shear=(0.0, share), by=(0.0, 0.0))


def _shifted_across(picture: Image.Image, share: float) -> Image.Image:
    return _moved(picture, shear=(0.0, 0.0), by=(share, 0.0))


def _shifted_down(picture: Image.Image, share: float) -> Image.Image:
    return _moved(picture, shear=(0.0, 0.0), by=(0.0, share))


_ROTATION, _SHEAR, _SHIFT = (functools.partial(_signed, most) for most in (30.0, 0.3, 0.45))

# By timm's names, in timm's order.
OPERATIONS: Mapping[
    str, tuple[Callable[..., Image.Image], Callable[[float, int], tuple[float, ...]]]
] = {
    "AutoContrast": (ImageOps.autocontrast, _nothing),
    "Equalize": (ImageOps.equalize, _nothing),
    "Invert": (ImageOps.invert, _nothing),
    "Rotate": (_rotated, _ROTATION),
    "PosterizeIncreasing": (ImageOps.posterize, _bits),
    "SolarizeIncreasing": (ImageOps.solarize, _threshold),
    "SolarizeAdd": (_brightened, _added),
    "ColorIncreasing": (functools.partial(_enhanced, ImageEnhance.Color), _factor),
    "ContrastIncreasing": (functools.partial(_enhanced, ImageEnhance.Contrast), _factor),
    "BrightnessIncreasing": (functools.partial(_enhanced, ImageEnhance.Brightness), _factor),
    "SharpnessIncreasing": (functools.partial(_enhanced, ImageEnhance.Sharpness), _factor),
    "ShearX": (_sheared_across, _SHEAR),
    "ShearY": (_sheared_down, _SHEAR),
    "TranslateXRel": (_shifted_across, _SHIFT),
    "TranslateYRel": (_shifted_down, _SHIFT),
}
