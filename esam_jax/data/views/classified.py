"""Views for classification: an augmented crop with its class, and the central one to measure on."""

import math

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from esam_jax.config import ClassifiedConfig
from esam_jax.data.labels import Label
from esam_jax.data.records import Record
from esam_jax.data.views import crop, rand_augment
from esam_jax.errors import DataError

# Of random erasing (arXiv:1708.04896) as timm has it: shares of the area, and of height to width.
_AREAS = (0.02, 1 / 3)
_RATIO = 0.3
_TRIES = 10
_CENTRE = 224 / 256  # of the short side, which is seen when a picture is measured
_LONGEST = 16  # short sides; a narrower picture would take any amount of memory once enlarged


def shapes(config: ClassifiedConfig) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of every array of a view, without its batch axis."""
    return {
        "image": ((config.image_px, config.image_px, 3), np.dtype(np.uint8)),
        "label": ((), np.dtype(np.int32)),
        "erased": ((4,), np.dtype(np.int32)),
        "noise": ((2,), np.dtype(np.uint32)),
    }


def view(
    record: Record, config: ClassifiedConfig, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """{"image": uint8 [p, p, 3], "label": int32, "erased": int32 [4], "noise": uint32 [2]}.

    A random resized crop, which may be mirrored, then RandAugment. `erased` is the rectangle that
    is to be filled with noise (`ops.rectangles`; empty for none), and `noise` its seed: pixels stay
    uint8 until they are normalised, which noise comes after. DataError for a label that is none of
    the `classes`.
    """
    label = index(record, config)
    picture = Image.fromarray(crop.image(record, config, rng))
    image = np.asarray(rand_augment.augmented(rng, picture, config.rand_augment))
    hides = rng.random() < config.erasing
    box = draw_rectangle(rng, config.image_px) if hides else np.zeros(4, np.int32)
    seed = rng.integers(2**32, size=2, dtype=np.uint32)
    return {"image": image, "label": np.asarray(label, np.int32), "erased": box, "noise": seed}


def index(record: Record, config: ClassifiedConfig) -> int:
    """The number of its class; DataError for one that is none of the `classes`."""
    label: Label = record.annotation("label")
    if not 0 <= label.index < config.classes:
        raise DataError(
            f"{record.name} has class {label.index} ({label.name}), but there are "
            f"{config.classes}, from 0: write --data.view.classes {label.index + 1} or more"
        )
    return label.index


def centred(record: Record, px: int) -> UInt8[np.ndarray, "{px} {px} 3"]:
    """The centre of a picture whose short side is `px` * 256 / 224, bicubic (torchvision's Resize
    and CenterCrop, in MAE's datasets.py)."""
    pixels = record.picture.rgb()
    short, side = min(pixels.shape[:2]), int(px / _CENTRE)
    first = [max(0, (each - _LONGEST * short) // 2) for each in pixels.shape[:2]]
    rows, columns = (slice(each, each + _LONGEST * short) for each in first)
    picture = Image.fromarray(pixels[rows, columns])
    size = picture.width * side // short, picture.height * side // short
    resized = np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
    top, left = (round((each - px) / 2) for each in resized.shape[:2])
    return resized[top : top + px, left : left + px]


def draw_rectangle(rng: np.random.Generator, px: int) -> Int32[np.ndarray, " 4"]:
    """A rectangle to erase in a square of `px` pixels; an empty one where none was found."""
    for _ in range(_TRIES):
        area, log_ratio = rng.uniform(*_AREAS), rng.uniform(math.log(_RATIO), -math.log(_RATIO))
        height, width = rectangle(area, log_ratio, px)
        if height < px and width < px:
            top = int(rng.integers(px - height + 1))
            left = int(rng.integers(px - width + 1))
            return np.array([top, left, top + height, left + width], np.int32)
    return np.zeros(4, np.int32)


def rectangle(area: float, log_ratio: float, px: int) -> tuple[int, int]:
    """Height and width of a share of a square; the log of their ratio is uniform."""
    pixels, ratio = area * px * px, math.exp(log_ratio)
    return round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
