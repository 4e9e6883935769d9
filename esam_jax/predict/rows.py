"""Answers of the decoder, which stay on the device until they are read."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from esam_jax.predict import programs


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """The candidates of some queries, as they lie in the answers of calls of the decoder.

    Logits and scores of call k are those of `logits[k]` and `scores[k]`, each also on the host.
    `places` says for each candidate the call, and its row in that when the other axes are one.
    No call copies what it does not need, so few shapes are compiled, however many queries come.
    """

    logits: tuple[Float[Array | np.ndarray, "_ _ _ l l"], ...]
    scores: tuple[Float[Array | np.ndarray, "_ _ _"], ...]
    places: Int[np.ndarray, "Q M 2"]

    @staticmethod
    def of(
        low_res: Float[Array | np.ndarray, "Q M l l"], scores: Float[Array | np.ndarray, "Q M"]
    ) -> "Rows":
        """Those of arrays."""
        Q, M = scores.shape
        places = np.stack([np.zeros((Q, M), int), np.arange(Q * M).reshape(Q, M)], axis=2)
        return Rows((low_res[None],), (scores[None],), places)

    def only(self, queries: Any) -> "Rows":
        """Those of some queries, which hold on to no other call; IndexError as NumPy has it."""
        places = self.places[queries]
        calls, new = np.unique(places[..., 0], return_inverse=True)
        places = np.stack([new.reshape(places.shape[:2]), places[..., 1]], axis=2)
        logits, scores = (tuple(part[i] for i in calls) for part in (self.logits, self.scores))
        return Rows(logits, scores, places)

    def all_scores(self) -> Float[np.ndarray, "Q M"]:
        """On the host."""
        found = np.empty(self.places.shape[:2], np.float32)
        for call, scores in enumerate(self.scores):
            mine = self.places[..., 0] == call
            found[mine] = np.asarray(scores).reshape(-1)[self.places[mine, 1]]
        return found

    def counted_through(
        self,
    ) -> tuple[tuple[Float[Array | np.ndarray, "_ _ _ l l"], ...], Int[np.ndarray, "Q M"]]:
        """The logits, and where among all of their rows each candidate is."""
        counts = [part.shape[0] * part.shape[1] * part.shape[2] for part in self.logits]
        before = np.cumsum([0, *counts])[self.places[..., 0]]
        return self.logits, (before + self.places[..., 1]).astype(np.int32)

    def in_parts(
        self, chosen: Int[np.ndarray, "X 2"], sizes: Callable[[int], list[int]]
    ) -> Iterator[tuple[Int[np.ndarray, " _"], Float[Array | np.ndarray, "_ l l"]]]:
        """Logits of some `places`, as many at a time as `sizes` says for a count of them.

        With each part comes which of the chosen it holds; the last one repeats where it is filled.
        """
        for call, logits in enumerate(self.logits):
            mine = np.flatnonzero(chosen[:, 0] == call)
            first = 0
            for size in sizes(len(mine)):
                which = mine[first : first + size]
                which = np.pad(which, (0, size - len(which)), mode="edge")
                first += size
                yield which, _taken(logits, chosen[which, 1])


def _taken(
    logits: Float[Array | np.ndarray, "_ _ _ l l"], rows: Int[np.ndarray, " X"]
) -> Float[Array | np.ndarray, "X l l"]:
    if isinstance(logits, np.ndarray):
        return logits.reshape(-1, *logits.shape[3:])[rows]
    return programs.rows((logits,), rows.astype(np.int32))
