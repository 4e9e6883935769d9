"""The decoder's output for one picture: logits, scores, and masks derived from them."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from esam_jax.config import SamConfig
from esam_jax.ops import regions
from esam_jax.predict import frames, full_size


@dataclasses.dataclass(frozen=True, eq=False)
class Masks:
    """Candidate masks of one picture, in the order of the prompts and of the model: not sorted.

    low_res: logits at the decoder's own size. scores: predicted IoU, raw, so not always in [0, 1].
    height, width: of the picture as given. What is at full size is made on request.
    """

    low_res: Float[np.ndarray, "Q M l l"]
    scores: Float[np.ndarray, "Q M"]
    height: int
    width: int
    config: SamConfig

    def __len__(self) -> int:
        """Queries."""
        return len(self.scores)

    def __repr__(self) -> str:
        Q, M = self.scores.shape
        scores = f", scores {self.scores.min():.3g} to {self.scores.max():.3g}" if Q else ""
        return f"Masks({Q} x {M} of a picture of {self.height} x {self.width}{scores})"

    @property
    def logits(self) -> Float[np.ndarray, "Q M H W"]:
        """Logits enlarged to the picture, by the rule of this checkpoint's family; not kept."""
        return frames.to_original(self.low_res, self.height, self.width, self.config)

    def binary(self) -> Bool[np.ndarray, "Q M H W"]:
        """Every candidate as a mask of the picture."""
        return self._inside(self._flat).reshape(*self.scores.shape, self.height, self.width)

    def best(self) -> tuple[Int[np.ndarray, " Q"], Bool[np.ndarray, "Q H W"]]:
        """Index of the candidate with the highest score, and its mask, for each query."""
        indices = self._highest()
        return indices, self._inside(self.low_res[np.arange(len(indices)), indices])

    def rle(self) -> list[list[dict[str, Any]]]:
        """COCO run lengths {"size", "counts"} of every candidate: `rle()[query][candidate]`."""
        found, M = self._runs(self._flat), self.scores.shape[1]
        return [found[first : first + M] for first in range(0, len(found), M)]

    def best_rle(self) -> tuple[Int[np.ndarray, " Q"], list[dict[str, Any]]]:
        """As `best`, with COCO run lengths: no mask is ever held at full size."""
        indices = self._highest()
        return indices, self._runs(self.low_res[np.arange(len(indices)), indices])

    @property
    def _flat(self) -> Float[np.ndarray, "_ l l"]:
        return self.low_res.reshape(-1, *self.low_res.shape[2:])

    @property
    def _axes(self) -> full_size.Axes:
        return frames.enlarging(self.height, self.width, self.config)

    def _highest(self) -> Int[np.ndarray, " Q"]:
        return self.scores.argmax(axis=1)

    def _inside(self, low_res_Xll: np.ndarray) -> np.ndarray:
        zero_is_inside = self.config.decoder.traits.zero_is_inside
        return full_size.inside(low_res_Xll, self._axes, zero_is_inside)

    def _runs(self, low_res_Xll: np.ndarray) -> list[dict[str, Any]]:
        parts = full_size.parts(low_res_Xll, self._axes, for_runs=True)
        zero_is_inside = self.config.decoder.traits.zero_is_inside
        found = full_size.runs(parts, self._axes, zero_is_inside)[: len(low_res_Xll)]
        size = [self.height, self.width]
        return [regions.compress({"size": size, "counts": runs.tolist()}) for runs in found]
