"""Our networks computed as exactly as float32 allows, for comparisons."""

import functools
from typing import Any

import jax
import numpy as np

from esam_jax.config import ComputeConfig

COMPUTE = ComputeConfig(precision="highest")


def apply(model: Any, params: Any, method: str, *inputs: Any, **options: bool) -> Any:
    """The method's results as NumPy arrays; compiled once for each method and its options."""
    run = _compiled(model, method, tuple(options.items()))
    return jax.tree.map(np.asarray, run(params, *inputs))


@functools.lru_cache(maxsize=4)
def _compiled(model: Any, method: str, options: tuple[tuple[str, bool], ...]) -> Any:
    return jax.jit(lambda p, *x: model.apply({"params": p}, *x, method=method, **dict(options)))
