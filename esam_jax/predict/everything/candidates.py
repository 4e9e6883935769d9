"""Candidate masks of segment-everything: measured, suppressed, cleaned."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from esam_jax.ops import selection, small_regions
from esam_jax.predict import full_size


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Masks of one crop that may still be discarded, in the frame of the crop.

    The logits of each, at the decoder's size, are row `rows[i, 1]` of `logits[rows[i, 0]]`. They
    stay on the device until most masks are discarded (see `fetched`); no call copies all of them.
    """

    logits: tuple[Float[Array | np.ndarray, "_ _ _"], ...]
    rows: Int[np.ndarray, "X 2"]
    scores: Float[np.ndarray, " X"]
    points: Float[np.ndarray, "X 2"]
    stability: Float[np.ndarray, " X"]
    boxes: Int[np.ndarray, "X 4"]

    def __len__(self) -> int:
        return len(self.scores)

    def only(self, keep: Bool[np.ndarray, " X"] | Int[np.ndarray, " _"]) -> "Candidates":
        """Those for which `keep` is true, or those at the places `keep`."""
        return dataclasses.replace(self, **{name: getattr(self, name)[keep] for name in _BY_MASK})

    def in_parts(self, sizes: Sequence[int]) -> Iterator[Float[Array | np.ndarray, "_ _ _"]]:
        """All logits, so many at a time; what `sizes` has too many are copies of the last."""
        first = 0
        for size in sizes:
            rows = self.rows[first : first + size]
            rows = np.pad(rows, ((0, size - len(rows)), (0, 0)), mode="edge")
            first += size
            if isinstance(self.logits[0], np.ndarray):
                # Of logits on the host, only these rows are copied to the device.
                yield np.stack([self.logits[part][row] for part, row in rows])
            else:
                yield _take(self.logits[0], rows[:, 1])

    def fetched(self) -> "Candidates":
        """The same, with their own logits alone, on the host."""
        logits = np.zeros((len(self), *self.logits[0].shape[1:]), np.float32)
        if len(self):
            # To a power of two, so that few programs are compiled.
            [part] = self.in_parts([1 << (len(self) - 1).bit_length()])
            logits[:] = np.asarray(part)[: len(self)]
        return dataclasses.replace(self, logits=(logits,), rows=first_rows(len(self)))

    @staticmethod
    def joined(parts: "list[Candidates]") -> "Candidates":
        """All of them, in order; each `fetched`."""
        columns = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name in _BY_MASK
        }
        which = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        columns["rows"] = np.stack([which, columns["rows"][:, 1]], axis=1)
        return Candidates(
            logits=tuple(logits for part in parts for logits in part.logits), **columns
        )


_BY_MASK = ("rows", "scores", "points", "stability", "boxes")


def first_rows(count: int) -> Int[np.ndarray, "X 2"]:
    """The first `count` rows of the first logits."""
    return np.stack([np.zeros(count, int), np.arange(count)], axis=1)


_take = jax.jit(lambda logits, rows: logits[rows])


@dataclasses.dataclass(frozen=True)
class Mask:
    """A mask that is kept, in the frame of the picture; `box` holds its outermost pixels."""

    runs: Int[np.ndarray, " L"]
    box: Int[np.ndarray, " 4"]
    score: float
    stability: float
    point: Float[np.ndarray, " 2"]
    crop: Int[np.ndarray, " 4"]


@functools.partial(jax.jit, static_argnames="offset")
def low_res_stability(
    logits: Float[Array, "X _ _"], valid: Int[Array, "2"], *, offset: float
) -> Float[Array, " X"]:
    """Stability on the first `valid` rows and columns of the decoder's logits."""
    rows, columns = (jnp.arange(side) for side in logits.shape[1:])
    on_picture = (rows[:, None] < valid[0]) & (columns < valid[1])
    on_picture = jnp.where(on_picture, logits, -jnp.inf)
    return selection.stability(on_picture, full_size.THRESHOLD, offset)


def survivors(
    boxes: Int[np.ndarray, "X 4"], scores: Float[np.ndarray, " X"], threshold: float
) -> Int[np.ndarray, " _"]:
    """Places of those that non-maximum suppression leaves, best first."""
    if not len(scores):
        return np.zeros(0, np.int64)
    # To a power of two, so that few programs are compiled.
    spare = (1 << (len(scores) - 1).bit_length()) - len(scores)
    padded_boxes = np.pad(np.asarray(boxes, np.float32), ((0, spare), (0, 0)))
    padded_scores = np.pad(np.asarray(scores, np.float32), (0, spare), constant_values=-np.inf)
    order, alive = _nms(padded_boxes, padded_scores, threshold=threshold)
    return np.asarray(order)[np.asarray(alive)]


_nms = jax.jit(selection.nms, static_argnames="threshold")


def suppressed(masks: list[Mask], scores: Float[np.ndarray, " X"], threshold: float) -> list[Mask]:
    boxes = np.stack([mask.box for mask in masks])
    return [masks[i] for i in survivors(boxes, scores, threshold)]


def cleaned(masks: list[Mask], area: int, threshold: float, height: int) -> list[Mask]:
    """Holes filled and islands dropped; where masks now coincide, the untouched one stays."""
    kept, untouched = [], []
    for mask in masks:
        runs, filled = small_regions.without_small(mask.runs, height, area, "holes")
        runs, dropped = small_regions.without_small(runs, height, area, "islands")
        changed = filled or dropped
        if changed:
            box = np.array(small_regions.box(runs, height))
            mask = dataclasses.replace(mask, runs=runs, box=box)
        kept.append(mask)
        untouched.append(float(not changed))
    return suppressed(kept, np.array(untouched), threshold)
