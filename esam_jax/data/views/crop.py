"""Views for pretraining: a random resized crop (arXiv:2312.00863, section 4.1)."""

import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from esam_jax.config import ClassifiedConfig, CropConfig
from esam_jax.data import stored_features
from esam_jax.data.records import Record
from esam_jax.data.views import draws

_RATIO = (3 / 4, 4 / 3)
_CROPS = 2  # keeps crops that are always the same apart from other draws for a record


def shapes(config: CropConfig) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of every array of a view, without its batch axis.

    That of stored features is known by whose they are alone.
    """
    return {"image": ((config.image_px, config.image_px, 3), np.dtype(np.uint8))}


def view(record: Record, config: CropConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """{"image": uint8 [p, p, 3]}: random resized crop, bicubic, then flip (arXiv:2312.00863).

    With stored features also {"target": float32 [h, w, T]}; ConfigError for a record without.
    """
    if config.crops is None:
        return {"image": image(record, config, rng)}
    number = int(rng.integers(config.crops))
    made = fixed_view(record, config, number)
    if config.features is not None:
        reader = stored_features.reader(config.features)
        name = stored_features.view_name(record.name, number)
        made["target"] = reader.features(name, made["image"])
    return made


def fixed(config: CropConfig) -> int | None:
    """How many crops each record has; None where all are new."""
    return config.crops


def fixed_view(record: Record, config: CropConfig, number: int) -> dict[str, np.ndarray]:
    """{"image": uint8 [p, p, 3]}: one of the crops of a record, whose seed is its name."""
    return {"image": image(record, config, draws.generator(0, number, record.name, _CROPS))}


def image(
    record: Record, config: CropConfig | ClassifiedConfig, rng: np.random.Generator
) -> UInt8[np.ndarray, "{config.image_px} {config.image_px} 3"]:
    """A random resized crop, bicubic, then mirrored or not."""
    picture = record.picture
    box = _random_box(rng, picture.height, picture.width, config.min_scale)
    size = (config.image_px, config.image_px)
    # Decoded in full: a smaller inverse DCT gives other pixels, and published recipes resize these.
    pixels = Image.fromarray(picture.rgb())
    crop = np.asarray(pixels.resize(size, Image.Resampling.BICUBIC, box))
    if draws.flips(rng, config.flip):
        crop = crop[:, ::-1]
    return np.ascontiguousarray(crop)


def _random_box(
    rng: np.random.Generator, height: int, width: int, min_scale: float
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a crop: area uniform, ratio log-uniform, as torchvision's."""
    for _ in range(10):
        area = height * width * rng.uniform(min_scale, 1.0)
        ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    # A very long picture: the largest central crop with an allowed ratio.
    w, h = min(width, round(height * _RATIO[1])), min(height, round(width / _RATIO[0]))
    w, h = max(w, 1), max(h, 1)
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
