"""Classes by a vote of the most similar pictures (DINO, arXiv:2104.14294, appendix F.1, after
arXiv:1805.01978; upstream eval_knn.py)."""

import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from esam_jax import sharding
from esam_jax.evaluate import picture_rows

TEMPERATURE = 0.07
NEIGHBOURS = (20, 10, 100, 200)  # DINO finds 20 to be the best throughout

_KNOWN = 16_384  # pictures that are compared with at once
_QUERIES = 512  # pictures that are compared at once, by each device
_VOTES = 2**24  # numbers of the votes that are held at once


def ranked(
    known: Float[np.ndarray, "X D"],
    labels: Integer[np.ndarray, " X"],
    queries: Float[np.ndarray, "_ D"],
    classes: int,
    neighbours: Sequence[int],
) -> Iterator[tuple[Integer[np.ndarray, "_ _"], int]]:
    """For each number of neighbours: the classes of each query, the likeliest first, and -1 behind
    all that have a vote; and how many neighbours there are, at most those that are `known`.

    A neighbour's vote is exp(cosine / 0.07). Of equal similarities the first known picture counts,
    of equal votes the first class.
    """
    most = min(max(neighbours), len(known))
    similar, places = nearest(known, queries, most)
    for wanted in neighbours:
        count = min(wanted, most)
        votes = np.exp(similar[:, :count].astype(np.float64) / TEMPERATURE)
        found = np.empty((len(queries), classes), np.int32)
        step = max(1, _VOTES // classes)
        for first in range(0, len(queries), step):
            rows = slice(first, first + step)
            sums = np.zeros((len(votes[rows]), classes))
            own = np.arange(len(sums))[:, None]
            np.add.at(sums, (own, labels[places[rows, :count]]), votes[rows])
            order = np.argsort(-sums, axis=1, kind="stable")
            found[rows] = np.where(np.take_along_axis(sums, order, 1) > 0, order, -1)
        yield found, count


def nearest(
    known: Float[np.ndarray, "X D"], queries: Float[np.ndarray, "_ D"], most: int
) -> tuple[Float[np.ndarray, "_ _"], Integer[np.ndarray, "_ _"]]:
    """Cosines and places of the `most` most similar of the known vectors, the first of equal ones
    first, over all devices of this host: a part of the known at a time, whatever their number."""
    mesh = picture_rows.local_mesh(len(queries))
    rows = mesh.size * min(_QUERIES, -(-len(queries) // mesh.size))
    place, everywhere = sharding.batch(mesh), sharding.replicated(mesh)
    blocks = [
        jax.device_put(_padded(_unit(queries[first : first + rows]), rows), place)
        for first in range(0, len(queries), rows)
    ]
    start = np.full((rows, most), -np.inf, np.float32), np.zeros((rows, most), np.int32)
    best = [jax.device_put(start, place) for _ in blocks]
    chunk = min(_KNOWN, max(most, len(known)))
    for first in range(0, len(known), chunk):
        some = _unit(known[first : first + chunk])
        given = jax.device_put(_padded(some, chunk), everywhere)
        best = [
            _merged(block, given, *found, first, len(some))
            for block, found in zip(blocks, best, strict=True)
        ]
    pairs = [jax.device_get(each) for each in best]
    similar, places = (np.concatenate(each)[: len(queries)] for each in zip(*pairs, strict=True))
    return similar, places


@functools.partial(jax.jit, donate_argnums=(2, 3))
def _merged(
    queries: Float[Array, "_ D"],
    known: Float[Array, "X D"],
    similar: Float[Array, "_ _"],
    places: Int[Array, "_ _"],
    first: int | Int[Array, ""],
    count: int | Int[Array, ""],
) -> tuple[Array, Array]:
    """The best of those so far and of `count` more, whose places begin at `first`."""
    found = jnp.matmul(queries, known.T, precision="highest")
    number = jnp.arange(known.shape[0])
    found = jnp.where(number < count, found, -jnp.inf)
    most = similar.shape[1]
    more, at = jax.lax.top_k(found, min(most, known.shape[0]))
    # What stands first wins a tie, and all places so far come before the new ones.
    values, chosen = jax.lax.top_k(jnp.concatenate([similar, more], 1), most)
    both = jnp.concatenate([places, at + first], 1)
    return values, jnp.take_along_axis(both, chosen, 1)


def _unit(x: Float[np.ndarray, "X D"]) -> Float[np.ndarray, "X D"]:
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.maximum(length, np.finfo(np.float32).tiny)


def _padded(x: Float[np.ndarray, "X D"], rows: int) -> Float[np.ndarray, "_ D"]:
    return np.pad(x, ((0, rows - len(x)), (0, 0)))
