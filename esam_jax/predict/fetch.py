"""Results of a device, fetched while it computes the next."""

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
