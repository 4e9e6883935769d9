"""A network of a few thousand parameters in both wirings, every axis of another size."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import nano

from esam_jax.config import DecoderConfig, SamConfig, SamVitConfig, VitConfig

WIRINGS = ("efficientsam", "sam")


def config(wiring: str, **decoder: Any) -> SamConfig:
    """Pictures of 40 pixels, a grid of 5, low-resolution masks of 20; width 16."""
    common = {"width": 12, "heads": 3, "depth": 2, "patch_px": 8, "image_px": 40, "neck_width": 16}
    if wiring == "sam":
        encoder = SamVitConfig(**common, window=3, global_blocks=(1,))
        decoder = {"background": "learned", "mask_prompts": "learned", **decoder}
    else:
        encoder = VitConfig(**common, pretrain_px=32)
    sizes = {"width": 16, "heads": 2, "mlp_width": 24, "iou_width": 20, "mask_channels": 8}
    return SamConfig(encoder=encoder, decoder=DecoderConfig(wiring=wiring, **{**sizes, **decoder}))


@functools.cache
def params(config: SamConfig) -> Any:
    """Random parameters, as arrays of JAX."""
    return jax.tree.map(jnp.asarray, nano.params(config))
