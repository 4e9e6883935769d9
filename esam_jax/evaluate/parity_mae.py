"""MAE's network beside the recorded numbers of its original."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from esam_jax.config import MaeConfig
from esam_jax.convert.model_folder import ModelFile
from esam_jax.evaluate import exact, golden
from esam_jax.models.pretrain import mae
from esam_jax.ops import images, losses, patches


def library_pairs(file: ModelFile) -> None:
    """None: there is no library to compare with."""


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
