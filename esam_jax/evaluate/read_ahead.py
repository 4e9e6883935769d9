"""Batches of what is read of pictures, one ahead of its use, without those that cannot be read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from esam_jax.data.views import View
from esam_jax.errors import DataError, MissingError

_READERS = 8


class Read(NamedTuple):
    """The rows of a batch that this process holds.

    `arrays` of a row that is not `known` are zero: there is no picture, or `broken` says why it
    cannot be used.
    """

    arrays: dict[str, np.ndarray]
    known: Bool[np.ndarray, " B"]
    broken: list[str]


def batches(
    read: Callable[[int], View],
    shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    places: Sequence[int],
    rows: int,
    mine: Sequence[int],
) -> Iterator[Read]:
    """Every `rows` of the places, in their order, of which this process reads the rows `mine`.

    `read` makes the arrays of the picture at a place, of these `shapes`; one that raises DataError
    or MissingError is left out.
    """
    blank = {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
    cut = [places[first : first + rows] for first in range(0, len(places), rows)]

    def attempt(batch: Sequence[int], row: int) -> View | str | None:
        if row >= len(batch):
            return None
        try:
            return read(batch[row])
        except (DataError, MissingError) as error:
            return str(error)

    with ThreadPoolExecutor(_READERS) as pool:
        ahead = [pool.submit(attempt, batch, row) for batch in cut[:1] for row in mine]
        for batch in [*cut[1:], ()] if cut else ():
            made = [future.result() for future in ahead]
            ahead = [pool.submit(attempt, batch, row) for row in mine]
            known = np.array([isinstance(each, Mapping) for each in made], bool)
            views = [each if isinstance(each, Mapping) else blank for each in made]
            arrays = {name: np.stack([view[name] for view in views]) for name in blank}
            yield Read(arrays, known, [each for each in made if isinstance(each, str)])
