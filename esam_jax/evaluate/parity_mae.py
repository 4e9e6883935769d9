"""MAE's network beside timm's, and beside the recorded numbers of its original."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from esam_jax.config import MaeConfig
from esam_jax.evaluate import exact, golden
from esam_jax.evaluate.originals import Original
from esam_jax.models.pretrain import mae
from esam_jax.ops import images, losses, patches


def original_pairs(
    config: MaeConfig, params: Any, original: Original
) -> Iterator[tuple[str, Any, np.ndarray]]:
    """The tokens of one picture, the class token and all patches, behind the last norm."""
    px = config.encoder.image_px
    noise = np.random.default_rng(0).integers(0, 256, (1, px, px, 3), np.uint8)
    pixels = images.normalise(jnp.asarray(noise))
    latent = exact.apply(mae.Mae(config, exact.COMPUTE), params, "encode", pixels)
    yield "latent", latent, original.encode(np.asarray(pixels))


def golden_pairs(
    case: golden.Case, config: MaeConfig, params: Any
) -> Iterator[tuple[str, Any, np.ndarray]]:
    """Latent and losses of a golden case."""
    ours, kept = mae.Mae(config, exact.COMPUTE), config.encoder.pretrain_grid**2
    visible = int(kept * (1 - case.meta["mask_ratio"]))
    order = np.argsort(case.arrays["noise"], axis=1, kind="stable")
    seen, masked = jnp.asarray(order[:, :visible]), jnp.asarray(order[:, visible:])
    pixels = images.normalise(jnp.asarray(case.pictures))
    latent = exact.apply(ours, params, "encode", pixels, seen)
    yield "latent", latent[:, :, ::4], case.arrays["latent_sample"]
    predicted = exact.apply(ours, params, "__call__", pixels, seen, masked)
    target = patches.patchify(pixels, config.encoder.patch_px).reshape(predicted.shape)
    for name, key, wanted in (
        ("loss", "loss", target),
        ("loss on normalised pixels", "loss_norm_pix", patches.standardise(target)),
    ):
        loss = losses.masked_mse(jnp.asarray(predicted), wanted, masked).mean()
        yield name, np.asarray(loss)[None], case.arrays[key]
