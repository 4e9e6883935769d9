"""A network of a few thousand parameters in both wirings, every axis of another size."""

import functools
import zlib
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from esam_jax.config import DecoderConfig, SamConfig, SamVitConfig, VitConfig
from esam_jax.models import expected_shapes
from helpers import quick

WIRINGS = ("efficientsam", "sam")

jit = quick.jit


def config(wiring: str, **decoder: Any) -> SamConfig:
    """Pictures of 40 pixels, a grid of 5, low-resolution masks of 20; width 16."""
    common = {"width": 12, "heads": 3, "depth": 2, "patch_px": 8, "image_px": 40, "neck_width": 16}
    if wiring == "sam":
        encoder = SamVitConfig(**common, window=3, global_blocks=(1,))
        decoder = {"background": "learned", "mask_prompts": "learned", **decoder}
    else:
        encoder = VitConfig(**common, pretrain_px=32)
    sizes = {"width": 16, "heads": 2, "mlp_width": 24, "iou_width": 20}
    return SamConfig(encoder=encoder, decoder=DecoderConfig(wiring=wiring, **{**sizes, **decoder}))


@functools.cache
def params(config: SamConfig) -> Any:
    """Random parameters of such sizes that signals neither fade nor explode."""

    def draw(path: str, shape: tuple[int, ...]) -> jax.Array:
        kind = path.rsplit("/", 1)[-1]
        mean, deviation = {"scale": (1, 0.1), "bias": (0, 0.1), "kernel": (0, 0.3)}.get(
            kind, (0, 1)
        )
        rng = np.random.default_rng(zlib.crc32(path.encode()))
        return jnp.asarray(rng.normal(mean, deviation, shape), jnp.float32)

    shapes = expected_shapes.of(config)
    flat = {path: draw(path, shape) for path, shape in shapes.items()}
    return flax.traverse_util.unflatten_dict(flat, sep="/")
