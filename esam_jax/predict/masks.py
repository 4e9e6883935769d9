"""The decoder's output for one picture: logits, scores, and masks derived from them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from esam_jax.config import SamConfig
from esam_jax.machine import out_of_memory
from esam_jax.ops import regions
from esam_jax.predict import frames, full_size
from esam_jax.predict.fetch import each_behind
from esam_jax.predict.rows import Rows
from esam_jax.words import counted


class Masks:
    """Candidate masks of one picture, in the order of the prompts and of the model: not sorted.

    low_res: logits at the decoder's own size [Q, M, l, l]. scores: predicted IoU [Q, M], raw, so
    not always in [0, 1]. height, width: of the picture as given. Both arrays may lie on a device;
    as attributes they are NumPy, fetched when first read, and the device then keeps no logits.
    Masks at full size are made on request, on the device. `masks[i]`, `masks[i:j]` and
    `masks[indices]` are those of some queries. Whatever computes or fetches raises
    DeviceMemoryError when the device is full.
    """

    def __init__(
        self,
        low_res: Float[Array | np.ndarray, "Q M l l"],
        scores: Float[Array | np.ndarray, "Q M"],
        height: int,
        width: int,
        config: SamConfig,
    ) -> None:
        self._rows = Rows.of(low_res, scores)
        self.height, self.width, self.config = height, width, config

    @staticmethod
    def of_rows(rows: Rows, height: int, width: int, config: SamConfig) -> "Masks":
        """Of answers of the decoder where they lie."""
        masks = object.__new__(Masks)
        masks._rows = rows
        masks.height, masks.width, masks.config = height, width, config
        return masks

    @functools.cached_property
    @out_of_memory.advice()
    def low_res(self) -> Float[np.ndarray, "Q M l l"]:
        """Logits at the decoder's own size."""
        Q, M = self._shape
        found = np.empty((Q * M, self.config.low_res_px, self.config.low_res_px), np.float32)
        for which, logits in each_behind(self._parts(self._all)):
            found[which] = logits
        low_res = found.reshape(Q, M, *found.shape[1:])
        self._rows = Rows.of(low_res, self.scores)
        return low_res

    @functools.cached_property
    @out_of_memory.advice()
    def scores(self) -> Float[np.ndarray, "Q M"]:
        """Predicted IoU of every candidate."""
        return self._rows.all_scores()

    def __len__(self) -> int:
        """Queries."""
        return self._shape[0]

    def __getitem__(self, queries: Any) -> "Masks":
        """Those of some queries; IndexError beyond the last, which ends a loop over them."""
        count = len(self)
        if isinstance(queries, int | np.integer) and not isinstance(queries, bool):
            if not -count <= queries < count:
                have = counted(count, "query", "queries")
                raise IndexError(f"masks[{queries}] is out of range: these are of {have}")
            queries = slice(queries % count, queries % count + 1)
        elif isinstance(queries, slice) or queries is ...:
            pass
        elif isinstance(queries, tuple) or np.ndim(queries) != 1:
            raise IndexError(
                f"masks[{queries!r:.80}] chooses no queries: give an integer, a slice or one list"
            )
        return Masks.of_rows(self._rows.only(queries), self.height, self.width, self.config)

    def __repr__(self) -> str:
        Q, M = self._shape
        scores = f", scores {self.scores.min():.3g} to {self.scores.max():.3g}" if Q else ""
        return f"Masks({Q} x {M} of a picture of {self.height} x {self.width}{scores})"

    @property
    @out_of_memory.advice()
    def logits(self) -> Float[np.ndarray, "Q M H W"]:
        """Logits enlarged to the picture, by the rule of this checkpoint's family; not kept."""
        found = full_size.logits(self._parts(self._all), len(self._all), self._axes)
        return found.reshape(*self._shape, self.height, self.width)

    def block_until_ready(self) -> "Masks":
        """The same when the device has computed it, as arrays of JAX have it; fetches nothing."""
        with out_of_memory.advice():
            jax.block_until_ready((self._rows.logits, self._rows.scores))
        return self

    def binary(self) -> Bool[np.ndarray, "Q M H W"]:
        """Every candidate as a mask of the picture."""
        return self._inside(self._all).reshape(*self._shape, self.height, self.width)

    @out_of_memory.advice()
    def binary_on_device(self) -> Bool[Array, "Q M H W"]:
        """As `binary`, as an array of JAX, computed by the time it is used.

        One program for this size of picture and number of queries: for work of few shapes.
        """
        if not len(self):
            return jnp.zeros((*self._shape, self.height, self.width), bool)
        return full_size.on_device(*self._rows.counted_through(), self._axes, self._zero_is_inside)

    def best(self) -> tuple[Int[np.ndarray, " Q"], Bool[np.ndarray, "Q H W"]]:
        """Index of the candidate with the highest score, and its mask, for each query."""
        indices = self._highest()
        return indices, self._inside(self._of(indices))

    def rle(self) -> list[list[dict[str, Any]]]:
        """COCO run lengths {"size", "counts"} of every candidate: `rle()[query][candidate]`."""
        found, M = self._runs(self._all), self._shape[1]
        return [found[first : first + M] for first in range(0, len(found), M)]

    def best_rle(self) -> tuple[Int[np.ndarray, " Q"], list[dict[str, Any]]]:
        """As `best`, with COCO run lengths: no mask is ever held at full size."""
        indices = self._highest()
        return indices, self._runs(self._of(indices))

    def sizes_up_to(self, count: int) -> list[int]:
        """Numbers of masks that are enlarged at once where at most `count` are made."""
        counts = range(1, count + 1)
        return sorted({size for each in counts for size in full_size.sizes(each, self._axes)})

    # Candidates are chosen by their places in the answers, [X, 2].

    @property
    def _shape(self) -> tuple[int, int]:
        Q, M, _ = self._rows.places.shape
        return Q, M

    @property
    def _all(self) -> Int[np.ndarray, "X 2"]:
        return self._rows.places.reshape(-1, 2)

    def _of(self, indices: Int[np.ndarray, " Q"]) -> Int[np.ndarray, "Q 2"]:
        return self._rows.places[np.arange(len(indices)), indices]

    def _parts(self, chosen: Int[np.ndarray, "X 2"], *, for_runs: bool = False) -> full_size.Parts:
        axes = self._axes
        return self._rows.in_parts(
            chosen, lambda count: full_size.sizes(count, axes, for_runs=for_runs)
        )

    @functools.cached_property
    def _axes(self) -> full_size.Axes:
        return frames.enlarging(self.height, self.width, self.config)

    @property
    def _zero_is_inside(self) -> bool:
        return self.config.decoder.traits.zero_is_inside

    def _highest(self) -> Int[np.ndarray, " Q"]:
        return self.scores.argmax(axis=1)

    @out_of_memory.advice()
    def _inside(self, chosen: Int[np.ndarray, "X 2"]) -> Bool[np.ndarray, "X H W"]:
        return full_size.inside(self._parts(chosen), len(chosen), self._axes, self._zero_is_inside)

    @out_of_memory.advice()
    def _runs(self, chosen: Int[np.ndarray, "X 2"]) -> list[dict[str, Any]]:
        order: list[int] = []

        def logits() -> Any:
            for which, part in self._parts(chosen, for_runs=True):
                order.extend(which.tolist())
                yield part

        found = full_size.runs(logits(), self._axes, self._zero_is_inside)
        runs = dict(zip(order, found, strict=True))  # what fills a part up comes twice
        size = [self.height, self.width]
        plain = ({"size": size, "counts": runs[i].tolist()} for i in range(len(chosen)))
        return [regions.compress(each) for each in plain]
