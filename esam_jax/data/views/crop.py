"""Views for pretraining: a random resized crop (arXiv:2312.00863, section 4.1)."""

import math

import numpy as np
from PIL import Image

from esam_jax.config import CropConfig
from esam_jax.data.records import Record
from esam_jax.data.views import draws

_RATIO = (3 / 4, 4 / 3)


def shapes(config: CropConfig) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of every array of a view, without its batch axis."""
    return {"image": ((config.image_px, config.image_px, 3), np.dtype(np.uint8))}


def view(record: Record, config: CropConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """{"image": uint8 [p, p, 3]}: random resized crop, bicubic, then flip (arXiv:2312.00863)."""
    picture = record.picture
    box = _random_box(rng, picture.height, picture.width, config.min_scale)
    size = (config.image_px, config.image_px)
    # Decoded in full: a smaller inverse DCT gives other pixels, and published recipes resize these.
    image = Image.fromarray(picture.rgb())
    crop = np.asarray(image.resize(size, Image.Resampling.BICUBIC, box))
    if draws.flips(rng, config.flip):
        crop = crop[:, ::-1]
    return {"image": np.ascontiguousarray(crop)}


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
