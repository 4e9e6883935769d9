"""Masks of one picture, decoded only when they are chosen."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Integer, UInt8

from esam_jax.errors import DataError
from esam_jax.ops import regions


@runtime_checkable  # for the shape checks in the tests
class MaskSet(Protocol):
    """The masks of one picture. Both methods raise DataError for a broken mask."""

    def __len__(self) -> int: ...

    def decode(self, indices: Sequence[int]) -> Bool[np.ndarray, "X H W"]:
        """These masks in the picture's own frame."""
        ...

    def sample(
        self,
        indices: Sequence[int],
        rows: Integer[np.ndarray, " _"],
        columns: Integer[np.ndarray, " _"],
    ) -> Bool[np.ndarray, "X {len(rows)} {len(columns)}"]:
        """These masks at some rows and columns only, as nearest-neighbour resizing wants."""
        ...


@dataclasses.dataclass(frozen=True)
class CocoMasks:
    """COCO segmentations of the picture `name` as the json has them: polygons or run lengths."""

    name: str
    segmentations: Sequence[Any]
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.segmentations)

    def decode(self, indices: Sequence[int]) -> Bool[np.ndarray, "X H W"]:
        return self.sample(indices, np.arange(self.height), np.arange(self.width))

    def sample(
        self,
        indices: Sequence[int],
        rows: Integer[np.ndarray, " _"],
        columns: Integer[np.ndarray, " _"],
    ) -> Bool[np.ndarray, "X {len(rows)} {len(columns)}"]:
        masks = np.zeros((len(indices), len(rows), len(columns)), bool)
        for slot, index in enumerate(indices):
            try:
                mask = self._one(self.segmentations[index])
            except DataError as error:
                raise DataError(f"{self.name}: mask {index}: {error}") from error
            # COCO's forms decode column by column, so columns are picked first.
            masks[slot] = mask.T.take(columns, 0).take(rows, 1).T
        return masks

    def _one(self, segmentation: Any) -> Bool[np.ndarray, "H W"]:
        if not isinstance(segmentation, Mapping):
            return regions.from_polygons(segmentation, self.height, self.width)
        # Compared before decoding: a wrong size may be a huge one.
        if segmentation.get("size") != [self.height, self.width]:
            raise DataError(
                f"its size is {str(segmentation.get('size'))[:60]}, "
                f"but the picture is {[self.height, self.width]}"
            )
        return regions.from_rle(segmentation)


@dataclasses.dataclass(frozen=True)
class LabelledMasks:
    """Disjoint masks in one label map: mask i is where the label is i + 1."""

    labels: UInt8[np.ndarray, "H W"]

    def __len__(self) -> int:
        return int(self.labels.max())

    def decode(self, indices: Sequence[int]) -> Bool[np.ndarray, "X H W"]:
        return self.labels == np.asarray(indices, np.uint8)[:, None, None] + np.uint8(1)

    def sample(
        self,
        indices: Sequence[int],
        rows: Integer[np.ndarray, " _"],
        columns: Integer[np.ndarray, " _"],
    ) -> Bool[np.ndarray, "X {len(rows)} {len(columns)}"]:
        return LabelledMasks(self.labels.take(rows, 0).take(columns, 1)).decode(indices)
