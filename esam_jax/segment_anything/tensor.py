"""NumPy arrays with the methods that callers of PyTorch end with."""

from typing import Any

import numpy as np

from esam_jax.errors import PromptError


class Tensor(np.ndarray):
    """An array of the host: `cpu`, `detach` and `to` return it, `numpy` as a plain array."""

    def numel(self) -> int:
        return self.size

    def cpu(self) -> "Tensor":
        return self

    def detach(self) -> "Tensor":
        return self

    def to(self, *_: Any, **__: Any) -> "Tensor":
        return self

    def numpy(self) -> np.ndarray:
        return self.view(np.ndarray)


def tensor(array: Any) -> Tensor:
    """The array as a `Tensor`."""
    return np.ascontiguousarray(array).view(Tensor)


def array(value: Any, name: str, shape: str) -> np.ndarray:
    """What was given as NumPy; PromptError, which calls it `name`, unless it has as many axes.

    Arrays of NumPy and JAX and tensors of PyTorch on the CPU are taken.
    """
    try:
        found = np.asarray(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PromptError.of(name, f"cannot be taken as an array ({error}): call .cpu()") from error
    if found.ndim != len(shape.split()):
        raise PromptError.of(name, f"has shape {found.shape}, but must be [{shape}]")
    return found
