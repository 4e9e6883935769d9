"""A U-2-Net of a few thousand weights, every width another one, whose maps are not flat."""

import flax.traverse_util
import numpy as np

from esam_jax.config import U2NetConfig
from helpers import nano

CONFIG = U2NetConfig(widths=(4, 5, 6, 7, 8, 9), inner=(3, 2, 4, 3, 2, 3, 4, 2, 3, 2, 3))


def params() -> dict:
    """Random, with kernels by which signals neither fade nor explode."""
    flat = flax.traverse_util.flatten_dict(nano.params(CONFIG), sep="/")
    for path, leaf in flat.items():
        if path.endswith("kernel"):
            spread = 5 * (leaf - 0.1)  # deviation 1
            flat[path] = np.float32(spread * (2 / np.prod(leaf.shape[:-1])) ** 0.5)
    return flax.traverse_util.unflatten_dict(flat, sep="/")
