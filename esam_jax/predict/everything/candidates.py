"""Candidate masks of segment-everything: measured, suppressed, cleaned."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from esam_jax.ops import selection, small_regions
from esam_jax.predict import tiles
from esam_jax.predict.full_size import Axes

_LOW_RES_AT_ONCE = 64


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Masks of one crop that may still be discarded, in the frame of the crop.

    The logits of each, at the decoder's size, are row `rows[i]` of `logits`, on the device.
    """

    logits: Float[Array, "_ _ _"]
    rows: Int[np.ndarray, " X"]
    scores: Float[np.ndarray, " X"]
    points: Float[np.ndarray, "X 2"]
    stability: Float[np.ndarray, " X"]
    boxes: Int[np.ndarray, "X 4"]

    def __len__(self) -> int:
        return len(self.scores)

    def only(self, keep: Bool[np.ndarray, " X"] | Int[np.ndarray, " _"]) -> "Candidates":
        """Those for which `keep` is true, or those at the places `keep`."""
        return dataclasses.replace(self, **{name: getattr(self, name)[keep] for name in _BY_MASK})

    def in_parts(self, sizes: Sequence[int]) -> Iterator[Float[Array, "_ _ _"]]:
        """All logits, so many at a time; what `sizes` has too many are copies of the last."""
        first = 0
        for size in sizes:
            rows = self.rows[first : first + size]
            first += size
            yield take(self.logits, np.pad(rows, (0, size - len(rows)), mode="edge"))

    def alone(self) -> "Candidates":
        """The same with their own logits alone, and perhaps some copies."""
        if not len(self):
            return self
        # To a power of two, so that few programs are compiled.
        [logits] = self.in_parts([1 << (len(self) - 1).bit_length()])
        return dataclasses.replace(self, logits=logits, rows=np.arange(len(self)))


_BY_MASK = ("rows", "scores", "points", "stability", "boxes")
take = jax.jit(lambda logits, rows: logits[rows])


@dataclasses.dataclass(frozen=True)
class Survivors:
    """Candidates of one crop that passed every test, in its frame, as often as the device is full.

    `axes` enlarge their logits to the size of the crop; `size` is the picture's height and width.
    """

    parts: list[Candidates]
    crop: Int[np.ndarray, " 4"]
    axes: Axes
    size: tuple[int, int]


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
    logits: Float[Array, "X _ _"], count: Int[Array, ""], valid: Int[Array, "2"], *, offset: float
) -> Float[Array, " X"]:
    """Stability of the first `count`, on the first `valid` rows and columns of their logits."""
    rows, columns = (jnp.arange(side) for side in logits.shape[1:])
    on_picture = (rows[:, None] < valid[0]) & (columns < valid[1])
    group = min(_LOW_RES_AT_ONCE, len(logits))

    def measure(i: Array, found: Array) -> Array:
        # The last group begins earlier, where it would end too late, and measures some again.
        first = jnp.minimum(i * group, len(logits) - group)
        some = lax.dynamic_slice_in_dim(logits, first, group)
        some = jnp.where(on_picture, some, -jnp.inf)
        stability = selection.stability(some, tiles.THRESHOLD, offset)
        return lax.dynamic_update_slice_in_dim(found, stability, first, 0)

    found = jnp.zeros(len(logits), jnp.float32)
    return lax.fori_loop(0, (count + group - 1) // group, measure, found)


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
    order, alive = suppress(padded_boxes, padded_scores, threshold=threshold)
    return np.asarray(order)[np.asarray(alive)]


suppress = jax.jit(selection.nms, static_argnames="threshold")


def suppressed(masks: list[Mask], scores: Float[np.ndarray, " X"], threshold: float) -> list[Mask]:
    boxes = np.stack([mask.box for mask in masks])
    return [masks[i] for i in survivors(boxes, scores, threshold)]


def cleaned(masks: list[Mask], area: int, threshold: float, height: int) -> list[Mask]:
    """Holes filled and islands dropped; where masks now coincide, the untouched one stays."""
    runs, filled = small_regions.without_small([mask.runs for mask in masks], height, area, "holes")
    runs, dropped = small_regions.without_small(runs, height, area, "islands")
    changed = filled | dropped
    places = np.flatnonzero(changed)
    boxes = small_regions.boxes([runs[i] for i in places], height)
    kept = list(masks)
    for i, box in zip(places.tolist(), boxes, strict=True):
        kept[i] = dataclasses.replace(masks[i], runs=runs[i], box=box)
    return suppressed(kept, (~changed).astype(np.float32), threshold)
