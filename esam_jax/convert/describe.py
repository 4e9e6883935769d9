"""What can be said of a model's weights: how many there are, and a checksum of all of them."""

import hashlib
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from esam_jax.convert import provenance
from esam_jax.convert.model_folder import ModelFile
from esam_jax.typing import Params

# What PyTorch keeps as buffers, which its parameter counts leave out.
_BUFFERS = ("fourier", "mean", "variance")

DIFFERENT = "different"  # how `round_trip` begins when something went wrong


def parameters(file: ModelFile) -> int:
    """Parameters as PyTorch counts those of the file: without buffers, with unused heads."""
    used = sum(x.size for path, x in flat(file.params).items() if not is_buffer(path))
    return used + sum(x.size for x in file.unused.values() if x.dtype.kind != "i")


def checksum(params: Params) -> str:
    """SHA-256 of all parameters as float32, in the order of their paths, names included.

    The same for every file and layout that holds the same model.
    """
    digest = hashlib.sha256()
    for path, array in sorted(flat(params).items()):
        digest.update(path.encode())
        digest.update(np.ascontiguousarray(array, np.float32).data)
    return digest.hexdigest()


def flat(params: Params) -> dict[str, Any]:
    """Parameter path -> array."""
    return flax.traverse_util.flatten_dict(params, sep="/")


def is_buffer(path: str) -> bool:
    """Whether PyTorch keeps the parameter of that path as a buffer."""
    return path.rsplit("/", 1)[-1] in _BUFFERS


def round_trip(written: ModelFile, back: ModelFile, dtype: str) -> str:
    """In words, how what was read back compares with what was to be written in `dtype`."""
    wanted, found = flat(written.params), flat(back.params)
    if wanted.keys() != found.keys():
        gone = len(wanted.keys() - found.keys())
        return f"{gone} of {len(wanted)} parameters were left out, as requested"
    cast = jnp.dtype(dtype)
    differ = [
        path
        for path, x in wanted.items()
        if not np.array_equal(np.asarray(x).astype(cast).astype(np.float32), found[path])
    ]
    unused = [name for name in written.unused if name not in back.unused]
    parts = {*provenance.present(written.untrained, back.params)} ^ {*back.untrained}
    notes = [f"whether {part} was trained" for part in sorted(parts)]
    if differ or unused or notes:
        return f"{DIFFERENT} in {', '.join([*differ, *unused, *notes])}"
    return "bit-equal" if dtype == "float32" else f"bit-equal to the parameters rounded to {dtype}"
