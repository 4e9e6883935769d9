"""Parameters, pictures and prompts whose values do not affect timing."""

import zlib

import numpy as np
from jaxtyping import Float, Int, UInt8

from esam_jax.config import ModelConfig, SamConfig
from esam_jax.convert import state_dict
from esam_jax.models import expected_shapes
from esam_jax.typing import BOTTOM_RIGHT, TOP_LEFT, Params


def random_params(config: ModelConfig) -> Params:
    """Parameters drawn by their names, small enough that nothing overflows.

    Faster than `network.init`, which takes half a minute to compile.
    """

    def draw(path: str, shape: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng(zlib.crc32(path.encode()))
        kind = path.rsplit("/", 1)[-1]
        if kind in ("scale", "bias"):
            return np.full(shape, kind == "scale", np.float32)
        fan_in = np.prod(shape[:-1]) if kind == "kernel" else 1
        return rng.standard_normal(shape, np.float32) / np.float32(fan_in**0.5)

    shapes = expected_shapes.of(config)
    return state_dict.nested({path: draw(path, shape) for path, shape in shapes.items()})


def pictures(count: int, config: SamConfig) -> UInt8[np.ndarray, "B H W 3"]:
    """Noise in the size that the model takes."""
    px = config.image_px
    return np.random.default_rng(0).integers(0, 256, (count, px, px, 3), np.uint8)


def boxes(
    images: int, count: int, config: SamConfig
) -> tuple[Float[np.ndarray, "B Q 2 2"], Int[np.ndarray, "B Q 2"]]:
    """Corners of boxes, in pixels of the picture, and the labels that say so."""
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 0.5, (images, count, 1, 2))
    size = rng.uniform(0.2, 0.45, (images, count, 1, 2))
    corners = np.concatenate([corner, corner + size], axis=2) * config.image_px
    labels = np.broadcast_to(np.array([TOP_LEFT, BOTTOM_RIGHT], np.int32), (images, count, 2))
    return corners.astype(np.float32), labels.copy()
