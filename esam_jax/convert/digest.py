"""SHA-256 of parameters: whether two networks have the same weights."""

import hashlib

import jax
import numpy as np

from esam_jax import sharding
from esam_jax.typing import Params


def of(params: Params) -> str:
    """Of the names, types, shapes and bytes of all arrays, in hexadecimal digits."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.ascontiguousarray(leaf)
        total.update(f"{sharding.name(path)} {array.dtype} {array.shape}\n".encode())
        total.update(array.data.cast("B") if array.size else b"")
    return total.hexdigest()
