"""The masks of one record of tensorflow-datasets, in each of the forms that its data sets have."""

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from esam_jax.config import TfdsConfig
from esam_jax.data import decode
from esam_jax.data.bitmaps import Bitmap, Grid
from esam_jax.data.findings import Finding
from esam_jax.data.mask_sets import CocoMasks, MaskSet, NumberedMasks, Object
from esam_jax.data.sources import annotations
from esam_jax.data.sources.tfds_features import Masks
from esam_jax.data.sources.tfds_values import Frame, Values, read_map
from esam_jax.errors import DataError

_MAX_MASKS = 10_000  # of one picture
_MAX_VALUES = 2**28  # of all masks of a picture that are arrays


def read(
    values: Values, masks: Masks, frame: Frame, config: TfdsConfig, noted: list[Finding]
) -> MaskSet:
    """The masks of a record; what is left out of them is `noted`.

    DataError, which names the picture, for what is broken or does not fit it. One mask that is
    broken costs itself where each is stored by itself.
    """
    if masks.form == "numbers":
        return NumberedMasks(read_map(values, masks.key, frame))
    if masks.form == "runs":
        entries = list(_entries(values, masks, frame))
        found = annotations.outlines(entries, frame.name, config.crowds, noted)
        return CocoMasks(frame.name, found, frame.height, frame.width)
    if masks.form == "pictures":
        stored = _Pictures(frame, values.all(masks.key, "bytes_list"))
    else:
        stored = _Arrays(_arrays(values, masks, frame))
    _require_few(len(stored), frame.name)
    kept, crowds = [], _beside(values, masks.crowd, "int64_list", len(stored), frame.name)
    for index in range(len(stored)):
        if crowds and crowds[index]:
            used = config.crowds == "use"
            words = "is used" if used else "is left out"
            kind = "crowds_used" if used else "crowds_left_out"
            noted.append(Finding(kind, f"{frame.name}: mask {index} is a crowd and {words}"))
        if config.crowds == "use" or not (crowds and crowds[index]):
            kept.append(index)
    return _Chosen(stored, kept, _objects(values, masks, frame, len(stored)))


def stated_size(values: Values, masks: Masks) -> tuple[int, int] | None:
    """(height, width) of the masks, as far as the record states it without decoding one."""
    if masks.form in ("numbers", "pictures"):
        found = values.all(masks.key, "bytes_list")
        head = decode.header(found[0]) if found else None
        return (head.height, head.width) if head is not None else None
    if masks.form == "runs":
        sizes = [int(each) for each in values.all(f"{masks.key}/size", "int64_list")[:2]]
        return (sizes[0], sizes[1]) if len(sizes) == 2 else None
    height, width = _shape(values, masks)[1:]
    return None if height is None or width is None else (height, width)


def _shape(values: Values, masks: Masks) -> tuple[int | None, ...]:
    """(objects, rows, columns) as far as they are stated."""
    key = f"{masks.key}/shape"
    if not values.has(key):
        return masks.shape
    stated = [int(each) for each in values.all(key, "int64_list")]
    if masks.listed:  # the (rows, columns) of each object: those of the first are compared
        return (None, *stated[:2]) if len(stated) >= 2 else (0, None, None)
    return tuple(stated) if len(stated) == 3 else masks.shape


def _require_few(count: int, name: str) -> None:
    if count > _MAX_MASKS:
        raise DataError(f"{name} has {count} masks, but at most {_MAX_MASKS} are read")


def _beside(
    values: Values, key: str | None, kind: str, count: int, name: str, each: int = 1
) -> Sequence[Any]:
    """What a feature says of each object; nothing for no feature."""
    if key is None:
        return ()
    found = values.all(key, kind)
    if len(found) != count * each:
        raise DataError(f"{name}: {key} has {len(found)} values for {count} masks")
    return found


def _entries(values: Values, masks: Masks, frame: Frame) -> Sequence[dict[str, Any]]:
    """Objects with run lengths as COCO writes them."""
    texts = values.all(f"{masks.key}/counts", "bytes_list")
    _require_few(len(texts), frame.name)
    count, name = len(texts), frame.name
    sizes = _beside(values, f"{masks.key}/size", "int64_list", count, name, each=2)
    ids = _beside(values, masks.identity, "int64_list", count, name)
    crowds = _beside(values, masks.crowd, "int64_list", count, name)
    boxes = _beside(values, masks.box, "float_list", count, name, each=4)
    return [
        {
            "segmentation": {
                "size": [int(each) for each in sizes[2 * i : 2 * i + 2]],
                "counts": texts[i].decode(errors="replace"),
            },
            **({"id": int(ids[i])} if ids else {}),
            **({"iscrowd": int(crowds[i])} if crowds else {}),
            **({"bbox": _coco_box(boxes[4 * i : 4 * i + 4], frame)} if boxes else {}),
        }
        for i in range(count)
    ]


def _coco_box(box: Sequence[float], frame: Frame) -> list[float]:
    """[x, y, width, height] in pixels of (y0, x0, y1, x1) as shares of the picture's sides."""
    y0, x0, y1, x1 = map(float, box)
    return [
        x0 * frame.width,
        y0 * frame.height,
        (x1 - x0) * frame.width,
        (y1 - y0) * frame.height,
    ]


def _objects(values: Values, masks: Masks, frame: Frame, count: int) -> Sequence[Object]:
    """An identity that is not unique in its picture is replaced by the place among the others."""
    ids = _beside(values, masks.identity, "int64_list", count, frame.name)
    unique = len(set(ids)) == count
    boxes = _beside(values, masks.box, "float_list", count, frame.name, each=4)
    found = []
    for i in range(count):
        box = None
        if boxes:
            x, y, width, height = _coco_box(boxes[4 * i : 4 * i + 4], frame)
            sound = np.isfinite([x, y, width, height]).all() and width > 0 and height > 0
            box = (x, y, x + width, y + height) if sound else None
        found.append(Object(int(ids[i]) if ids and unique else i, box))
    return found


def _arrays(values: Values, masks: Masks, frame: Frame) -> Bool[np.ndarray, "Q H W"]:
    """Masks that are stored as booleans."""
    _, height, width = _shape(values, masks)
    frame.require(height or frame.height, width or frame.width, masks.key)
    area = frame.height * frame.width
    if masks.encoding == "none":
        ragged = f"{masks.key}/ragged_flat_values"
        flat = values.all(ragged if values.has(ragged) else masks.key, "int64_list")
        _require_room(len(flat), frame)
        found = np.fromiter(flat, np.int64, len(flat)).astype(bool)
    else:
        dense = f"{masks.key}/value"
        parts = values.all(dense if values.has(dense) else masks.key, "bytes_list")
        found = np.frombuffer(_unpacked(parts, masks, frame), np.uint8).astype(bool)
    if found.size % area:
        raise DataError(
            f"{frame.name}: {masks.key} has {found.size} values, which is no number of masks of "
            f"{frame.height} x {frame.width}: prepare the data set again"
        )
    return found.reshape(-1, frame.height, frame.width)


def _unpacked(parts: Sequence[bytes], masks: Masks, frame: Frame) -> bytes:
    """The bytes of all parts: never more than fit, whatever a few compressed ones stand for."""
    found = bytearray()
    for part in parts:
        if masks.encoding == "zlib":
            unpacker = zlib.decompressobj()
            try:
                part = unpacker.decompress(part, _MAX_VALUES + 1 - len(found))
            except zlib.error as error:
                raise DataError(f"{frame.name}: {masks.key} is broken ({error})") from error
            if not unpacker.eof and len(part) + len(found) <= _MAX_VALUES:
                raise DataError(f"{frame.name}: {masks.key} is cut short")
        _require_room(len(found) + len(part), frame)
        found += part
    return bytes(found)


def _require_room(count: int, frame: Frame) -> None:
    if count > _MAX_VALUES:
        raise DataError(f"{frame.name}: its masks have more than {_MAX_VALUES} values")


@dataclasses.dataclass(frozen=True)
class _Pictures:
    """Masks that are pictures: where they are not black."""

    frame: Frame
    encoded: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.encoded)

    def sample(self, index: int, grid: Grid) -> Bitmap:
        what = f"mask {index}"
        with decode.named(f"{self.frame.name}: {what}"):
            head = decode.header(self.encoded[index])
        self.frame.require(head.height, head.width, what)
        with decode.named(f"{self.frame.name}: {what}"):
            mask = decode.decode_mask(self.encoded[index])
        return _placed(mask, grid, f"{self.frame.name}: {what}")


@dataclasses.dataclass(frozen=True)
class _Arrays:
    """Masks that are arrays."""

    masks: Bool[np.ndarray, "Q H W"]

    def __len__(self) -> int:
        return len(self.masks)

    def sample(self, index: int, grid: Grid) -> Bitmap:
        return _placed(self.masks[index], grid, f"mask {index}")


def _placed(mask: Bool[np.ndarray, "H W"], grid: Grid, where: str) -> Bitmap:
    if not mask.any():
        raise DataError(f"{where}: it covers no pixel")
    return Bitmap.of(mask.take(grid.rows, 0).take(grid.columns, 1))


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """The masks of these numbers among those that are stored, with what is known of all."""

    stored: MaskSet
    kept: Sequence[int]
    objects: Sequence[Object]

    def __len__(self) -> int:
        return len(self.kept)

    def sample(self, index: int, grid: Grid) -> Bitmap:
        return self.stored.sample(self.kept[index], grid)

    def describe(self, index: int) -> Object:
        return self.objects[self.kept[index]]
