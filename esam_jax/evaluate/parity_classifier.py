"""A classifier beside timm's, and beside the recorded logits of its original."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from esam_jax.config import ClassifierConfig, TellsClasses
from esam_jax.evaluate import exact, golden
from esam_jax.evaluate.originals import Original
from esam_jax.models import kinds
from esam_jax.ops import images


def original_pairs(
    config: TellsClasses, params: Any, original: Original
) -> Iterator[tuple[str, Any, np.ndarray]]:
    """The logits of one picture, of both heads together where there are two.

    Both are given the same numbers: what a file says of the mean and deviation of pixels is nothing
    that the original's code knows.
    """
    if isinstance(config, ClassifierConfig):
        config = dataclasses.replace(config, pixels="imagenet")
    px = config.image_px
    noise = np.random.default_rng(0).integers(0, 256, (1, px, px, 3), np.uint8)
    pixels = images.normalise(jnp.asarray(noise))
    yield "logits", _logits(config, params, pixels), original.encode(np.asarray(pixels))


def golden_pairs(
    case: golden.Case, config: TellsClasses, params: Any
) -> Iterator[tuple[str, Any, np.ndarray]]:
    """Logits of a golden case; those of each head, where that has them."""
    pixels = images.normalise(jnp.asarray(case.pictures))
    yield "logits", _logits(config, params, pixels), case.arrays["logits"]
    if "by_head" in case.arrays:
        found = _logits(config, params, pixels, "by_head")
        yield from zip(_HEADS, found, case.arrays["by_head"], strict=True)


def _logits(config: TellsClasses, params: Any, pixels: Any, method: str = "__call__") -> Any:
    network = kinds.of(config).network.NETWORK(config, exact.COMPUTE)
    return exact.apply(network, params, method, pixels)


_HEADS = ("logits of the class token", "logits of the distillation token")
