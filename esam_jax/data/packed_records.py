"""One record of a pack as bytes: a CRC-32, then a map in MessagePack, whose reader runs no code.

    format      1
    name        of the record, unique in its pack
    picture     the bytes of its file; a picture that is no file is a PNG
    upright     whether its EXIF orientation is undone: the frame of its annotations
    size        [height, width] in that frame
    findings    [[kind, text, count], ...]: what its source noted before it was decoded
    masks       [[object, counts], ...]: what `mask_sets.Object` holds, and COCO's run lengths, as
                text; or [object, null, reason, covers no pixel] for one that was broken
    label       [index, name]
    semantic    [type of NumPy, zlib of the values, [[value, name], ...], [void, ...]]
    boundaries  [annotators, zlib of their bits, `numpy.packbits`]
    federated   [[negative, ...], [not exhaustive, ...]]

Annotations are there as far as the source has them. Lists in the place of further kinds are an
error, and so is any value of another type.
"""

import dataclasses
import io
import math
import zlib
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np
from jaxtyping import Int64
from PIL import Image

from esam_jax.data import decode
from esam_jax.data.bitmaps import Bitmap, Grid
from esam_jax.data.findings import KINDS, Finding
from esam_jax.data.labels import Federated, Label, SemanticMap
from esam_jax.data.mask_sets import (
    EmptyMaskError,
    MaskSet,
    Object,
    RunLengthMasks,
    describe,
    is_number,
    of_texts,
)
from esam_jax.data.pictures import Encoded, Picture
from esam_jax.data.records import Record
from esam_jax.errors import ConfigError, DataError
from esam_jax.ops import regions

FORMAT = 1
_TYPES = ("uint8", "uint16", "int16", "int32", "uint32", "int64")
_MOST_BITS = 2**30  # of all boundaries of a picture
_FIELDS = tuple(field.name for field in dataclasses.fields(Object))
_KINDS = {"identity": int | str, "category": int | None}  # of these but the box
_TEXT = "surrogatepass"  # a file's name may hold bytes that are not UTF-8


@dataclasses.dataclass(frozen=True)
class PackedMask:
    """A mask as text of COCO's run lengths; None for one that is broken, with the reason."""

    object: Object
    counts: str | None
    reason: str = ""
    empty: bool = False


@dataclasses.dataclass(frozen=True)
class PackedMasks:
    """The masks of the picture `name`, broken ones in their places."""

    name: str
    masks: Sequence[PackedMask]
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.masks)

    def sample(self, index: int, grid: Grid) -> Bitmap:
        return grid.place(self.runs(index))

    def runs(self, index: int) -> Int64[np.ndarray, " L"]:
        mask = self.masks[index]
        if mask.counts is None:
            raise (EmptyMaskError if mask.empty else DataError)(mask.reason)
        try:
            return regions.rle_runs({"size": [self.height, self.width], "counts": mask.counts})
        except DataError as error:
            raise DataError(f"{self.name}: mask {index}: {error}") from error

    def sample_together(self, indices: Sequence[int], grid: Grid) -> list[Bitmap] | None:
        return of_texts([self.masks[index].counts for index in indices], grid)

    def describe(self, index: int) -> Object:
        return self.masks[index].object


# ------------------------------------------------------------------------------------- writing


def encode(record: Record) -> bytes:
    """The bytes of a record whose picture is not decoded yet.

    Masks that are broken stay broken. ConfigError for a kind of annotation that packs do not hold.
    """
    picture = record.picture
    content: dict[str, Any] = {
        "format": FORMAT,
        "name": record.name,
        "picture": _file(picture),
        "upright": not isinstance(picture, Encoded) or picture.header.turn != 1,
        "size": [picture.height, picture.width],
        "findings": [[each.kind, each.text, each.count] for each in record.findings],
    }
    for kind, value in record.annotations.items():
        if kind not in _PACK:
            raise ConfigError(f"{record.name} has {kind}, which packs do not hold: leave them out")
        content[kind] = _PACK[kind](record, value)
    packed: Any = msgpack.packb(content, unicode_errors=_TEXT)
    return zlib.crc32(packed).to_bytes(4, "little") + packed


def _file(picture: Picture) -> bytes:
    if isinstance(picture, Encoded):
        return picture.data
    buffer = io.BytesIO()
    Image.fromarray(picture.rgb()).save(buffer, "PNG")
    return buffer.getvalue()


def _pack_masks(record: Record, masks: MaskSet) -> list[Any]:
    height, width = record.picture.height, record.picture.width
    grid, packed = Grid.whole(height, width), []
    for index in range(len(masks)):
        about = {name: getattr(describe(masks, index), name) for name in _FIELDS}
        try:
            if isinstance(masks, RunLengthMasks):
                runs = {"size": [height, width], "counts": masks.runs(index).tolist()}
                rle = regions.compress(runs)
            else:
                rle = regions.to_rle(masks.sample(index, grid).dense())
        except DataError as error:
            packed.append([about, None, str(error), isinstance(error, EmptyMaskError)])
            continue
        packed.append([about, rle["counts"]])
    return packed


def _pack_semantic(record: Record, found: SemanticMap) -> list[Any]:
    kind = found.values.dtype.name
    if kind not in _TYPES:
        raise DataError(f"{record.name}: its classes are {kind}, but packs hold {_TYPES}")
    names = sorted(found.names.items())
    return [kind, zlib.compress(found.values.tobytes()), names, sorted(found.void)]


def _pack_boundaries(record: Record, boundaries: np.ndarray) -> list[Any]:
    return [len(boundaries), zlib.compress(np.packbits(boundaries).tobytes())]


_PACK = {
    "masks": _pack_masks,
    "label": lambda record, label: [label.index, label.name],
    "semantic": _pack_semantic,
    "boundaries": _pack_boundaries,
    "federated": lambda record, value: [sorted(value.negative), sorted(value.not_exhaustive)],
}


# ------------------------------------------------------------------------------------- reading


def decode_record(
    data: bytes, sixteen_bit: decode.SixteenBit = "upper_byte", where: str | None = None
) -> Record:
    """The record of these bytes, its picture not decoded; DataError unless they are intact.

    `where` is what errors of the picture begin with, by default the name of the record.
    """
    packed = memoryview(data)[4:]
    if len(data) < 4 or zlib.crc32(packed) != int.from_bytes(data[:4], "little"):
        raise DataError("its checksum is wrong: the pack is damaged, make it again")
    try:
        content = msgpack.unpackb(packed, unicode_errors=_TEXT, strict_map_key=True)
    except Exception as error:  # decoders answer broken bytes with any kind of exception
        raise DataError(f"it is no record of a pack ({error})") from error
    version = _of(content, "format", int)
    if version != FORMAT:
        raise DataError(f"its format is {version}, but this release reads {FORMAT}: pack it again")
    name, size = _of(content, "name", str), tuple(_of(content, "size", list))
    noted = [_finding(each) for each in _of(content, "findings", list)]
    orientation = "upright" if _of(content, "upright", bool) else "stored"
    file = _of(content, "picture", bytes)
    with decode.named(name):
        header = decode.header(file, orientation)
        if size != (header.height, header.width):
            shown = f"{header.height} x {header.width}"
            raise DataError(f"its picture is {shown}, but was packed as {str(size)[:60]}")
        found = {
            kind: _UNPACK[kind](name, content[kind], *size) for kind in _UNPACK if kind in content
        }
    return Record(name, Encoded(where or name, file, header, sixteen_bit, noted), found, noted)


def _of(content: Any, key: Any, kind: type) -> Any:
    """A value of a map, or of a list by its number, which is of this type."""
    if isinstance(content, list):
        there = type(key) is int and key < len(content)
    else:
        there = isinstance(content, dict) and key in content
    if not there:
        raise DataError(f"it is no record of a pack: it has no {key!r}")
    if type(content[key]) is not kind:
        raise DataError(f"its {key!r} is a {type(content[key]).__name__}, not a {kind.__name__}")
    return content[key]


def _numbers(values: Any) -> list[int]:
    if type(values) is not list or not all(type(value) is int for value in values):
        raise DataError("it is no record of a pack: a list has other values than whole numbers")
    return values


def _finding(entry: Any) -> Finding:
    kind = _of(entry, 0, str)
    if kind not in KINDS:
        raise DataError(
            f"it has a finding of the kind {kind[:40]!r}, which this release does not know"
        )
    return Finding(kind, _of(entry, 1, str), _of(entry, 2, int))


def _unpack_masks(name: str, entries: Any, height: int, width: int) -> PackedMasks:
    if type(entries) is not list:
        raise DataError("its 'masks' is no list")
    return PackedMasks(name, [_mask(entry) for entry in entries], height, width)


def _mask(entry: Any) -> PackedMask:
    about = _object(_of(entry, 0, dict))
    if entry[1:2] == [None]:
        return PackedMask(about, None, _of(entry, 2, str), _of(entry, 3, bool))
    return PackedMask(about, _of(entry, 1, str))


def _object(about: dict[Any, Any]) -> Object:
    """DataError for values that no annotation has."""
    if not {"identity"} <= about.keys() <= {*_FIELDS}:
        raise DataError(
            f"an object has {sorted(map(str, about))}, but this release knows {_FIELDS}"
        )
    values = dict(about)
    if values.get("box") is not None:
        box = values["box"]
        if type(box) is not list or len(box) != 4 or not all(map(is_number, box)):
            raise DataError("an object has a box that is not four numbers")
        values["box"] = tuple(map(float, box))
    for field, value in values.items():
        if field != "box" and not isinstance(value, _KINDS[field]):
            raise DataError(f"an object has a {field!r} of type {type(value).__name__}")
    return Object(**values)


def _inflated(data: bytes, size: int) -> bytes:
    """The bytes that were compressed, which must be so many: no more are ever made."""
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(data, size + 1)
    except zlib.error as error:
        raise DataError(f"an annotation cannot be decompressed ({error})") from error
    if len(found) != size:
        raise DataError(f"an annotation has not the {size} bytes that its picture asks for")
    return found


def _unpack_label(name: str, entry: Any, height: int, width: int) -> Label:
    return Label(_of(entry, 0, int), _of(entry, 1, str))


def _unpack_semantic(name: str, entry: Any, height: int, width: int) -> SemanticMap:
    kind = _of(entry, 0, str)
    if kind not in _TYPES:
        raise DataError(f"its classes are {kind[:40]!r}, but must be one of {_TYPES}")
    dtype = np.dtype(kind)
    data = _inflated(_of(entry, 1, bytes), height * width * dtype.itemsize)
    values = np.frombuffer(data, dtype).reshape(height, width)
    names = {_of(pair, 0, int): _of(pair, 1, str) for pair in _of(entry, 2, list)}
    return SemanticMap(values, names, frozenset(_numbers(_of(entry, 3, list))))


def _unpack_boundaries(name: str, entry: Any, height: int, width: int) -> np.ndarray:
    annotators = _of(entry, 0, int)
    count = annotators * height * width
    if not 0 <= count <= _MOST_BITS:
        raise DataError(f"it has {annotators} annotators, more than are read of such a picture")
    bits = np.frombuffer(_inflated(_of(entry, 1, bytes), math.ceil(count / 8)), np.uint8)
    return np.unpackbits(bits, count=count).view(bool).reshape(annotators, height, width)


def _unpack_federated(name: str, entry: Any, height: int, width: int) -> Federated:
    return Federated(*(frozenset(_numbers(_of(entry, i, list))) for i in (0, 1)))


_UNPACK = {
    "masks": _unpack_masks,
    "label": _unpack_label,
    "semantic": _unpack_semantic,
    "boundaries": _unpack_boundaries,
    "federated": _unpack_federated,
}
