"""Masks of one picture, decoded only when they are chosen."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, UInt8

from esam_jax.data.bitmaps import Bitmap, Grid
from esam_jax.data.findings import Finding
from esam_jax.data.records import Record
from esam_jax.errors import DataError
from esam_jax.ops import regions
from esam_jax.words import counted


@runtime_checkable  # for the shape checks in the tests
class MaskSet(Protocol):
    """The masks of one picture."""

    def __len__(self) -> int: ...

    def sample(self, index: int, grid: Grid) -> Bitmap:
        """A mask on a grid of its picture; DataError, which names it, for one that is broken."""
        ...


@dataclasses.dataclass(frozen=True)
class Outline:
    """What annotations say of one mask: polygons or run lengths, in COCO's form; not checked."""

    label: str  # for people
    segmentation: Any


@dataclasses.dataclass(frozen=True)
class CocoMasks:
    """COCO segmentations of the picture `name` as the json has them: polygons or run lengths."""

    name: str
    outlines: Sequence[Outline]
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.outlines)

    def sample(self, index: int, grid: Grid) -> Bitmap:
        outline = self.outlines[index]
        try:
            return grid.place(self._runs(outline))
        except DataError as error:
            raise DataError(f"{self.name}: {outline.label}: {error}") from error

    def _runs(self, outline: Outline) -> Int64[np.ndarray, " L"]:
        segmentation = outline.segmentation
        if isinstance(segmentation, Mapping):
            # Compared before decoding: a wrong size may be a huge one.
            if segmentation.get("size") != [self.height, self.width]:
                raise DataError(
                    f"its size is {str(segmentation.get('size'))[:60]}, "
                    f"but the picture is {[self.height, self.width]}"
                )
            runs = regions.rle_runs(segmentation)
        else:
            runs = regions.polygon_runs(segmentation, self.height, self.width)
        if not runs[1::2].any():
            raise DataError("it covers no pixel")
        return runs


class SoundMasks:
    """The masks of a record: None, and a finding of the record, for one that is broken."""

    def __init__(self, record: Record) -> None:
        self._masks: MaskSet = record.annotation("masks")
        self._record, self._broken = record, []

    def __len__(self) -> int:
        return len(self._masks)

    def sample(self, index: int, grid: Grid) -> Bitmap | None:
        try:
            return self._masks.sample(index, grid)
        except DataError as error:
            self._broken.append(str(error))
            self._record.findings.append(Finding("objects_left_out", str(error)))
            return None

    def require_some(self) -> None:
        """DataError when every mask has been tried and is broken."""
        if self._broken and len(self._broken) == len(self._masks):
            raise DataError(nothing_usable(self._record.name, self._broken))


def nothing_usable(name: str, reasons: Sequence[str]) -> str:
    """What is said of a picture of which every object is broken."""
    count, first = len(reasons), reasons[0].removeprefix(f"{name}: ")
    return f"{name}: {count} of {counted(count, 'object')} cannot be used, the first: {first}"


@dataclasses.dataclass(frozen=True)
class LabelledMasks:
    """Disjoint masks in one label map: mask i is where the label is i + 1."""

    labels: UInt8[np.ndarray, "H W"]

    def __len__(self) -> int:
        return int(self.labels.max())

    def sample(self, index: int, grid: Grid) -> Bitmap:
        chosen = self.labels.take(grid.rows, 0).take(grid.columns, 1)
        return Bitmap.of(chosen == np.uint8(index + 1))
