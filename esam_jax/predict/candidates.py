"""Candidate masks of segment-everything: measured, suppressed, cleaned."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from esam_jax.ops import bits, islands, selection

MASK_THRESHOLD = 0.0  # of the logits, in every SAM


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Masks of one crop that may still fall: logits at the decoder's size, frame of the crop."""

    logits: Float[np.ndarray, "N h w"]
    scores: Float[np.ndarray, " N"]
    points: Float[np.ndarray, "N 2"]
    stability: Float[np.ndarray, " N"]
    boxes: Int[np.ndarray, "N 4"]

    def __len__(self) -> int:
        return len(self.scores)

    def only(self, keep: Bool[np.ndarray, " N"] | Int[np.ndarray, " K"]) -> "Candidates":
        """Those for which `keep` is true, or those at the places `keep`."""
        return Candidates(*(getattr(self, field.name)[keep] for field in _fields()))

    @staticmethod
    def joined(parts: "list[Candidates]") -> "Candidates":
        """All of them, in order."""
        names = [field.name for field in _fields()]
        return Candidates(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


def _fields() -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(Candidates)


@dataclasses.dataclass(frozen=True)
class Mask:
    """A mask that stays, in the frame of the picture; `box` holds its outermost pixels."""

    runs: Int[np.ndarray, " L"]
    box: Int[np.ndarray, " 4"]
    score: float
    stability: float
    point: Float[np.ndarray, " 2"]
    crop: Int[np.ndarray, " 4"]


@functools.partial(jax.jit, static_argnames=("offset", "rules"))
def measure(
    logits: Float[Array, "N H W"], offset: float, rules: str
) -> tuple[Float[Array, " N"], Int[Array, "N 4"]]:
    stable = selection.stability(logits, MASK_THRESHOLD, offset)
    return stable, selection.boxes(_inside(logits, rules))


@functools.partial(jax.jit, static_argnames="rules")
def turns(logits: Float[Array, "N H W"], rules: str) -> UInt8[Array, "N W L"]:
    return bits.turns(bits.pack(_inside(logits, rules)))


def _inside(logits: Float[Array, "N H W"], rules: str) -> Bool[Array, "N H W"]:
    return logits >= MASK_THRESHOLD if rules == "efficientsam" else logits > MASK_THRESHOLD


_T = TypeVar("_T")


def each_behind(results: Iterable[_T]) -> Iterator[_T]:
    """Each as NumPy, when the next is on its way: the device does not wait for the host."""
    behind = None
    for result in results:
        if behind is not None:
            yield jax.device_get(behind)
        behind = result
    if behind is not None:
        yield jax.device_get(behind)


def survivors(
    boxes: Int[np.ndarray, "N 4"], scores: Float[np.ndarray, " N"], threshold: float
) -> Int[np.ndarray, " K"]:
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


def suppressed(masks: list[Mask], scores: Float[np.ndarray, " N"], threshold: float) -> list[Mask]:
    boxes = np.stack([mask.box for mask in masks])
    return [masks[i] for i in survivors(boxes, scores, threshold)]


def cleaned(masks: list[Mask], area: int, threshold: float, height: int) -> list[Mask]:
    """Holes filled and islands dropped; where masks now coincide, the untouched one stays."""
    kept, untouched = [], []
    for mask in masks:
        runs, filled = islands.without_small(mask.runs, height, area, "holes")
        runs, dropped = islands.without_small(runs, height, area, "islands")
        changed = filled or dropped
        if changed:
            box = np.array(islands.box(runs, height))
            mask = dataclasses.replace(mask, runs=runs, box=box)
        kept.append(mask)
        untouched.append(float(not changed))
    return suppressed(kept, np.array(untouched), threshold)
