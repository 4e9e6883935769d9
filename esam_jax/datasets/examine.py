"""One record, read and decoded completely: what is wrong with it, and what is in it."""

import dataclasses
import hashlib
from collections import Counter
from typing import Any, Literal

import numpy as np

from esam_jax.data.bitmaps import Grid
from esam_jax.data.findings import Finding
from esam_jax.data.labels import Label, SemanticMap
from esam_jax.data.mask_sets import (
    EmptyMaskError,
    MaskSet,
    describe,
    nothing_usable,
    sample_together,
)
from esam_jax.data.pictures import Encoded, Picture
from esam_jax.data.records import Record, Source
from esam_jax.errors import DataError, DiskError, MissingError

# COCO's limits of area, in pixels of the picture: small is below the first, large from the second.
SMALL, LARGE = 32**2, 96**2
# Upper limits of the share of the picture that a mask covers.
SHARES = (0.001, 0.01, 0.1, 0.5, 0.9, 1.0)


@dataclasses.dataclass(frozen=True)
class Masks:
    """The masks of one picture.

    `count` are usable. `sizes` are small, medium and large ones, `shares` is how many have at most
    each share of `SHARES`, and more than the one before. `covered` pixels lie in a mask, `twice` in
    more than one.
    """

    count: int = 0
    empty: int = 0
    broken: int = 0
    complete: int = 0  # masks of all pixels
    ids_repeated: int = 0
    sizes: tuple[int, int, int] = (0, 0, 0)
    shares: tuple[int, ...] = (0,) * len(SHARES)
    covered: int = 0
    twice: int = 0


@dataclasses.dataclass(frozen=True)
class Examined:
    """What became of a record. `content` is a digest of its picture, before it is decoded.

    `classes` are pixels by class, `unnamed` those of a value without a name, `void` those of none.
    """

    name: str
    status: Literal["fine", "broken", "unreadable"]
    reason: str = ""
    findings: tuple[Finding, ...] = ()
    height: int = 0
    width: int = 0
    format: str = ""
    content: int = 0
    masks: Masks | None = None
    label: Label | None = None
    classes: dict[str, int] | None = None
    unnamed: int = 0
    void: int = 0
    annotators: int | None = None


def examine(source: Source, index: int) -> Examined:
    """Reads a record and decodes all of it."""
    name = source.name(index)
    try:
        record = source.read(index)
        picture = record.picture
        pixels = picture.rgb()
        if pixels.shape[:2] != (picture.height, picture.width):
            raise DataError(f"{name}: it is decoded to another size than its header says")
        known = _annotations(record)
    except DiskError as error:
        return Examined(name, "unreadable", str(error))
    except (DataError, MissingError) as error:
        return Examined(name, "broken", str(error))
    return Examined(
        name,
        "fine",
        findings=tuple(record.findings),
        height=picture.height,
        width=picture.width,
        format=_format(picture),
        content=_content(picture),
        **known,
    )


def _annotations(record: Record) -> dict[str, Any]:
    """What there is of each kind; DataError for annotations that are not of the picture's size."""
    known: dict[str, Any] = {}
    if "masks" in record.annotations:
        known["masks"] = masks_of(record)
    if "label" in record.annotations:
        known["label"] = record.annotations["label"]
    if "semantic" in record.annotations:
        found: SemanticMap = record.annotations["semantic"]
        _require_size(record, "its map of classes", found.values.shape)
        known |= _classes(found)
    if "boundaries" in record.annotations:
        boundaries = record.annotations["boundaries"]
        _require_size(record, "its boundaries", boundaries.shape[1:])
        known["annotators"] = len(boundaries)
    return known


def masks_of(record: Record) -> Masks:
    """Decodes all masks of a record; DataError where there are some, and all are broken.

    What is broken is a finding of the record.
    """
    grid = Grid.whole(record.picture.height, record.picture.width)
    masks: MaskSet = record.annotation("masks")
    areas, reasons, empty, broken, complete = [], [], 0, 0, 0
    covered = twice = None
    together = sample_together(masks, range(len(masks)), grid)
    for index in range(len(masks)):
        try:
            mask = together[index] if together else masks.sample(index, grid)
        except DataError as error:
            reasons.append(str(error))
            empty += isinstance(error, EmptyMaskError)
            broken += not isinstance(error, EmptyMaskError)
            continue
        if not (area := mask.area()):  # a number that no pixel of a map has
            empty += 1
            continue
        areas.append(area)
        if covered is None or twice is None:
            covered = mask.rows()
            twice = np.zeros_like(covered)
        else:
            rows = mask.rows()
            twice |= covered & rows
            covered |= rows
        complete += area == grid.height * grid.width
    if reasons and not areas:
        raise DataError(nothing_usable(record.name, reasons))
    record.findings.extend(Finding("objects_left_out", reason) for reason in reasons)
    sizes = np.histogram(areas, (0, SMALL, LARGE, np.inf))[0]
    share = np.asarray(areas) / (grid.height * grid.width)
    counts = np.bincount(np.searchsorted(SHARES, share), minlength=len(SHARES))
    found = Counter(describe(masks, index).identity for index in range(len(masks)))
    return Masks(
        count=len(areas),
        empty=empty,
        broken=broken,
        complete=complete,
        ids_repeated=len(masks) - len(found),
        sizes=(int(sizes[0]), int(sizes[1]), int(sizes[2])),
        shares=tuple(counts.tolist()),
        covered=0 if covered is None else int(np.bitwise_count(covered).sum(dtype=np.int64)),
        twice=0 if twice is None else int(np.bitwise_count(twice).sum(dtype=np.int64)),
    )


def _classes(found: SemanticMap) -> dict[str, Any]:
    values, counts = np.unique(found.values, return_counts=True)
    classes: dict[str, int] = {}
    unnamed = void = 0
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        if value in found.void:
            void += count
            continue
        name = found.names.get(value)
        unnamed += 0 if name is not None or not found.names else count
        named = f"{value}" if name is None else name
        classes[named] = classes.get(named, 0) + count
    return {"classes": classes, "unnamed": unnamed, "void": void}


def _require_size(record: Record, what: str, size: tuple[int, ...]) -> None:
    picture = record.picture
    if size != (picture.height, picture.width):
        shown = " x ".join(map(str, size))
        raise DataError(
            f"{record.name}: {what} is {shown}, but the picture is "
            f"{picture.height} x {picture.width}"
        )


def _format(picture: Picture) -> str:
    if isinstance(picture, Encoded):
        return f"{picture.header.kind} {picture.header.mode}"
    return "drawn"


def _content(picture: Picture) -> int:
    data = picture.data if isinstance(picture, Encoded) else picture.rgb().tobytes()
    return digest(data)


def digest(data: bytes) -> int:
    """64 bits that identify a content."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
