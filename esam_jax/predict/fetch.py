"""Results of a device: which are waited for, and when they are fetched."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import jax

_T = TypeVar("_T")


def each_behind(results: Iterable[_T]) -> Iterator[_T]:
    """Each result as NumPy, fetched while the next is computed: the device never waits."""
    behind = None
    for result in results:
        if behind is not None:
            yield jax.device_get(behind)
        behind = result
    if behind is not None:
        yield jax.device_get(behind)


def one_at_a_time(result: _T) -> _T:
    """The same, waited for on a CPU: that would begin the next call beside this one, and need room
    for both. An accelerator computes in order while Python continues."""
    return jax.block_until_ready(result) if jax.default_backend() == "cpu" else result
