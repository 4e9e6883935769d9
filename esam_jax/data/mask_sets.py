"""Masks of one picture, decoded only when they are chosen."""

import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64, Integer, UInt8

from esam_jax.data.bitmaps import Bitmap, Grid
from esam_jax.data.findings import Finding
from esam_jax.data.records import Record
from esam_jax.errors import DataError
from esam_jax.ops import regions
from esam_jax.words import counted

_TOGETHER_BYTES = 2**26  # of masks that are decoded at once, if each fills its picture
_TOGETHER_CHARACTERS = 2**20  # of their texts; one takes some 50 bytes on the way
_LEAST_ROWS = 512  # a column of a mask takes 64 bytes on the way, however few rows it has


class EmptyMaskError(DataError):
    """A mask that covers no pixel of its picture."""


@runtime_checkable  # for the shape checks in the tests
class MaskSet(Protocol):
    """The masks of one picture."""

    def __len__(self) -> int: ...

    def sample(self, index: int, grid: Grid) -> Bitmap:
        """A mask on a grid of its picture; DataError, which names it, for one that is broken."""
        ...


@dataclasses.dataclass(frozen=True)
class Object:
    """What annotations say of an object besides its mask: its `identity` is unique in its picture.

    `box` is the (x0, y0, x1, y1) that they give, from edge to edge of the outermost pixels; None
    where they give none that is finite and has an inside. `category` is the id of its category.
    """

    identity: int | str
    box: tuple[float, float, float, float] | None = None
    category: int | None = None


@runtime_checkable
class DescribedMasks(MaskSet, Protocol):
    """Masks of a source that says more of each object than its mask."""

    def describe(self, index: int) -> Object: ...


@runtime_checkable
class RunLengthMasks(MaskSet, Protocol):
    """Masks that are run lengths in the first place."""

    def runs(self, index: int) -> Int64[np.ndarray, " L"]:
        """Of a mask, checked: column by column, outside first; DataError as of `sample`."""
        ...


@runtime_checkable
class TogetherMasks(MaskSet, Protocol):
    """Masks of which several take less time together than in turn."""

    def sample_together(self, indices: Sequence[int], grid: Grid) -> list[Bitmap] | None:
        """`sample` of each; None where that fails for one of them, or takes too much memory."""
        ...


def describe(masks: MaskSet, index: int) -> Object:
    """What is known of an object: its place among the others where its source says no more."""
    return masks.describe(index) if isinstance(masks, DescribedMasks) else Object(index)


@dataclasses.dataclass(frozen=True)
class Outline:
    """What annotations say of one mask: polygons or run lengths, in COCO's form; not checked.

    `box` is COCO's [x, y, width, height].
    """

    label: str  # for people
    segmentation: Any
    identity: int | str | None = None
    box: Any = None
    category: int | None = None


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
        return grid.place(self.runs(index))

    def runs(self, index: int) -> Int64[np.ndarray, " L"]:
        outline = self.outlines[index]
        try:
            return self._runs(outline)
        except DataError as error:
            raise type(error)(f"{self.name}: {outline.label}: {error}") from error

    def sample_together(self, indices: Sequence[int], grid: Grid) -> list[Bitmap] | None:
        return of_texts([self._text(index) for index in indices], grid)

    def _text(self, index: int) -> str | bytes | None:
        segmentation = self.outlines[index].segmentation
        if not self._fits(segmentation):
            return None
        counts = segmentation.get("counts")
        return counts if isinstance(counts, str | bytes) else None

    def describe(self, index: int) -> Object:
        outline = self.outlines[index]
        identity = f"number {index}" if outline.identity is None else outline.identity
        return Object(identity, corners(outline.box), outline.category)

    def _runs(self, outline: Outline) -> Int64[np.ndarray, " L"]:
        segmentation = outline.segmentation
        if isinstance(segmentation, Mapping):
            # Compared before decoding: a wrong size may be a huge one.
            if not self._fits(segmentation):
                raise DataError(
                    f"its size is {str(segmentation.get('size'))[:60]}, "
                    f"but the picture is {[self.height, self.width]}"
                )
            runs = regions.rle_runs(segmentation)
        else:
            runs = regions.polygon_runs(segmentation, self.height, self.width)
        if not runs[1::2].any():
            raise EmptyMaskError("it covers no pixel")
        return runs

    def _fits(self, segmentation: Any) -> bool:
        size = [self.height, self.width]
        return isinstance(segmentation, Mapping) and segmentation.get("size") == size


def corners(box: Any) -> tuple[float, float, float, float] | None:
    """COCO's box as corners."""
    numbers = box if isinstance(box, list | tuple) and len(box) == 4 else ()
    if not numbers or not all(map(is_number, numbers)):
        return None
    x, y, width, height = map(float, numbers)
    return (x, y, x + width, y + height) if width > 0 and height > 0 else None


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number of float64; its integers have no largest one."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


class SoundMasks:
    """The masks of a record: None, and a finding of the record, for one that is broken."""

    def __init__(self, record: Record) -> None:
        self._masks: MaskSet = record.annotation("masks")
        self._record, self._broken = record, []

    def __len__(self) -> int:
        return len(self._masks)

    def describe(self, index: int) -> Object:
        return describe(self._masks, index)

    def sample(self, index: int, grid: Grid) -> Bitmap | None:
        try:
            return self._masks.sample(index, grid)
        except DataError as error:
            self._broken.append(str(error))
            self._record.findings.append(Finding("objects_left_out", str(error)))
            return None

    def sample_all(self, indices: Sequence[int], grid: Grid) -> list[Bitmap | None]:
        """`sample` of each of these."""
        together = sample_together(self._masks, indices, grid)
        return [*together] if together else [self.sample(index, grid) for index in indices]

    def require_some(self) -> None:
        """DataError when every mask has been tried and is broken."""
        if self._broken and len(self._broken) == len(self._masks):
            raise DataError(nothing_usable(self._record.name, self._broken))


def sample_together(masks: MaskSet, indices: Sequence[int], grid: Grid) -> list[Bitmap] | None:
    """`TogetherMasks.sample_together`; None for other masks."""
    return masks.sample_together(indices, grid) if isinstance(masks, TogetherMasks) else None


def of_texts(texts: Sequence[str | bytes | None], grid: Grid) -> list[Bitmap] | None:
    """The masks of COCO's compressed run lengths, which are not checked yet.

    None where one is broken or empty, or no text, or all take too much memory at once.
    """
    size = len(texts) * max(len(grid.rows), _LEAST_ROWS) * len(grid.columns) // 8
    found = [text for text in texts if text is not None]
    # All turns of a column are repeated with it: a picture may be narrower than its grid.
    characters = sum(map(len, found)) * grid.repeats()
    if len(found) < len(texts) or size > _TOGETHER_BYTES:
        return None
    if not 0 < characters <= _TOGETHER_CHARACTERS:
        return None
    try:
        runs, lengths = regions.text_runs(found, grid.height, grid.width)
    except DataError:
        return None
    begin = np.cumsum(lengths) - lengths
    inside = (np.arange(len(runs)) - np.repeat(begin, lengths)) % 2 * runs
    has_pixels = np.add.reduceat(inside, begin) > 0
    return grid.place_all(runs, lengths) if has_pixels.all() else None


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


@dataclasses.dataclass(frozen=True)
class NumberedMasks:
    """Disjoint masks in one map of numbers, any of which may be missing; 0 is no object."""

    numbers: Integer[np.ndarray, "H W"]

    def __len__(self) -> int:
        return len(self._present)

    def sample(self, index: int, grid: Grid) -> Bitmap:
        chosen = self.numbers.take(grid.rows, 0).take(grid.columns, 1)
        return Bitmap.of(chosen == self._present[index])

    def describe(self, index: int) -> Object:
        return Object(int(self._present[index]))

    @functools.cached_property
    def _present(self) -> Integer[np.ndarray, " Q"]:
        found = np.unique(self.numbers)
        return found[found != 0]


@dataclasses.dataclass(frozen=True)
class Region:
    """Where a layer has this value, and what is known of the object there."""

    layer: int
    value: int
    about: Object


@dataclasses.dataclass(frozen=True)
class LayeredMasks:
    """Masks in one or more maps of numbers; those of two layers may overlap."""

    layers: Integer[np.ndarray, "X H W"]
    regions: Sequence[Region]

    def __len__(self) -> int:
        return len(self.regions)

    def sample(self, index: int, grid: Grid) -> Bitmap:
        region = self.regions[index]
        chosen = self.layers[region.layer].take(grid.rows, 0).take(grid.columns, 1)
        return Bitmap.of(chosen == region.value)

    def describe(self, index: int) -> Object:
        return self.regions[index].about
