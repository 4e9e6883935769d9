"""What the weight file formats share: short messages, sane names and shapes, atomic writes."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO

from esam_jax import files
from esam_jax.errors import CheckpointError

# No model has a tensor near either; below them, sizes can be multiplied without a second thought.
MOST_DIMENSIONS, MOST_VALUES = 32, 2**40
# Far above the 640 M parameters and 600 names of the largest known model, SAM ViT-H. Text becomes
# up to 25 times as large as Python objects, so this keeps a hostile header below 300 MB.
MOST_HEADER_BYTES = 10_000_000


def shown(value: Any, most: int = 80) -> str:
    """A value from a file, as it may stand in a message: one line, ASCII, not long."""
    text = ascii(value) if isinstance(value, str | int) else f"a {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def reason(error: BaseException) -> str:
    """The first line of somebody else's error, cut short."""
    line = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {shown(line, 100)}" if line else type(error).__name__


def listed(names: Iterable[Any], most: int = 5) -> str:
    """The first names in order, and how many more there are."""
    every = sorted(shown(name) for name in names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def check_name(name: Any, where: str) -> None:
    """CheckpointError unless a tensor may be called so: text that every format can hold."""
    if not isinstance(name, str) or any("\ud800" <= c <= "\udfff" for c in name):
        raise CheckpointError(f"{where}: the tensor name {shown(name)} is not Unicode text")


def by_name(tensors: Mapping[str, Any] | Iterable[tuple[str, Any]], where: str) -> dict[str, Any]:
    """The tensors to write; CheckpointError for two of one name or a name that is not text."""
    items: Any = tensors.items() if isinstance(tensors, Mapping) else tensors
    arrays: dict[str, Any] = {}
    for name, array in items:
        check_name(name, where)
        if name in arrays:
            raise CheckpointError(f"{where}: two tensors are named {shown(name)}; rename one")
        arrays[name] = array
    return arrays


def count(shape: Any, where: str) -> int:
    """Values in a shape as a file states it; CheckpointError unless integers from 0."""
    if not isinstance(shape, list | tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise CheckpointError(f"{where} has a shape that is not a list of integers from 0")
    # A size of 0 must not hide another that NumPy could not multiply.
    if len(shape) > MOST_DIMENSIONS or math.prod(max(n, 1) for n in shape) > MOST_VALUES:
        raise CheckpointError(
            f"{where} has a shape of more than {MOST_DIMENSIONS} dimensions or 2**40 values"
        )
    return math.prod(shape)


def sha256(path: Path) -> str:
    """Of a file of any size, read in small pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replacing(path: Path) -> AbstractContextManager[BinaryIO]:
    """A new weight file that takes the place of `path` once it is safely on the disk."""
    return files.replacing(path, remedy="name another file", durable=True)
