"""The decoder's output for one picture: logits, scores, and masks derived from them."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from esam_jax.config import SamConfig
from esam_jax.ops import regions
from esam_jax.predict import frames


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

    @property
    def logits(self) -> Float[np.ndarray, "Q M H W"]:
        """Logits enlarged to the picture, by the rule of this checkpoint's family; not kept."""
        return np.stack([[self._enlarged(low) for low in query] for query in self.low_res])

    def binary(self) -> Bool[np.ndarray, "Q M H W"]:
        """Every candidate as a mask of the picture."""
        Q, M, side, _ = self.low_res.shape
        inside = self._inside(self.low_res.reshape(Q * M, side, side))
        return inside.reshape(Q, M, self.height, self.width)

    def best(self) -> tuple[Int[np.ndarray, " Q"], Bool[np.ndarray, "Q H W"]]:
        """Index of the candidate with the highest score, and its mask, for each query."""
        indices = self.scores.argmax(axis=1)
        chosen = self.low_res[np.arange(len(indices)), indices]
        return indices, self._inside(chosen)

    def rle(self) -> list[list[dict[str, Any]]]:
        """COCO run lengths {"size", "counts"} of every candidate: `rle()[query][candidate]`."""
        return [[regions.to_rle(mask) for mask in query] for query in self.binary()]

    def _enlarged(self, low_res: np.ndarray) -> np.ndarray:
        logits = frames.to_original(low_res, self.height, self.width, self.config)
        return np.asarray(logits, np.float32)

    def _inside(self, low_res_Xll: np.ndarray) -> np.ndarray:
        """Masks at full size. EfficientSAM's callers count a logit of 0 as inside, SAM's do not.

        One at a time: the floats of all would take 32 times the room of the answer, and whatever
        their number, one function is compiled for one size of picture.
        """
        inside = np.empty((len(low_res_Xll), self.height, self.width), bool)
        zero_is_inside = self.config.decoder.traits.zero_is_inside
        for slot, low_res in zip(inside, low_res_Xll, strict=True):
            logits = self._enlarged(low_res)
            np.copyto(slot, logits >= 0 if zero_is_inside else logits > 0)
        return inside
