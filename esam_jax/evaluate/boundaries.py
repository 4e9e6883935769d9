"""Pixels of one boundary map matched with those of another, one to one, within a distance.

The benchmark of BSDS500 (Martin, Fowlkes and Malik, PAMI 2004; `match.cc` of its code) assigns at
the least cost, with some random edges to what is left over. Here the same is solved exactly.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

_Places = tuple[Int64[np.ndarray, " E"], Int64[np.ndarray, " E"], Float64[np.ndarray, " E"]]


_ALONE = 100.0  # distances of a pair that is only just near enough


class Matched(NamedTuple):
    """Which pixels have a partner in the other map, and the sum of the distances of all pairs."""

    first: Bool[np.ndarray, "H W"]
    second: Bool[np.ndarray, "H W"]
    distance: float

    @property
    def pairs(self) -> int:
        return int(self.first.sum())


def match(
    first: Bool[np.ndarray, "H W"], second: Bool[np.ndarray, "H W"], *, most_px: float
) -> Matched:
    """Pairs of pixels at most `most_px` apart, as many as there can be, with the least distance.

    As in `match.cc`, a pixel without a partner costs as much as hundred pairs of that distance.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    row, column, distance = _candidates(first, second, most_px)
    rows, row = np.unique(row, return_inverse=True)
    columns, column = np.unique(column, return_inverse=True)
    matched = Matched(np.zeros_like(first), np.zeros_like(second), 0.0)
    if not len(rows):
        return matched
    # Each row has a column of its own besides, to stay alone with. In a sparse matrix a cost of
    # zero would be no edge, so that all costs are one more.
    alone = np.arange(len(rows))
    costs = np.concatenate([distance, np.full(len(rows), 2 * _ALONE * most_px)]) + 1
    at = np.concatenate([row, alone]), np.concatenate([column, len(columns) + alone])
    graph = csr_array((costs, at), shape=(len(rows), len(columns) + len(rows)))
    chosen = min_weight_full_bipartite_matching(graph)[1]
    paired = chosen < len(columns)
    matched.first.flat[np.flatnonzero(first)[rows[paired]]] = True
    matched.second.flat[np.flatnonzero(second)[columns[chosen[paired]]]] = True
    total = float(np.asarray(graph[alone[paired], chosen[paired]]).sum() - paired.sum())
    return matched._replace(distance=total)


def _candidates(
    first: Bool[np.ndarray, "H W"], second: Bool[np.ndarray, "H W"], most_px: float
) -> _Places:
    """All pairs that are near enough: numbers of pixels in either map, and their distance."""
    reach = int(most_px)
    number = np.pad(np.where(second, np.cumsum(second).reshape(second.shape), 0), reach)
    y, x = np.nonzero(first)
    found = []
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            distance = float(np.hypot(down, right))
            if distance > most_px:
                continue
            other = number[y + reach + down, x + reach + right]
            near = np.flatnonzero(other)
            found.append((near, other[near] - 1, np.full(len(near), distance)))
    row, column, distance = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return row, column, distance
