"""U-2-Net beside the recorded maps of its original."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esam_jax.config import U2NetConfig
from esam_jax.evaluate import exact, golden
from esam_jax.models.saliency import u2net
from esam_jax.ops import images


def golden_pairs(
    case: golden.Case, config: U2NetConfig, params: Any
) -> Iterator[tuple[str, Any, np.ndarray]]:
    """The seven maps of a golden case, whose picture has no side that halves evenly."""
    pixels = images.normalise(jnp.asarray(case.pictures)[None])
    logits = exact.apply(u2net.U2Net(config, exact.COMPUTE), params, "__call__", pixels)
    found = np.moveaxis(np.asarray(jax.nn.sigmoid(logits[0])), -1, 0)
    yield from zip(_NAMES, found, case.arrays["maps"], strict=True)


_NAMES = ("saliency map", *(f"saliency map of side {i}" for i in range(1, u2net.MAPS)))
