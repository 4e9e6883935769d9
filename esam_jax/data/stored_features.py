"""A teacher's features of many views, in files: written once, read by the name of a view.

    features.json                   what they are features of: see `Header`
    shard_000_00000.array_record    ArrayRecord, a view a record: [h, w, T] in `dtype`; before
                                    those of int8, the float32 [T] that its channels multiply by
    shard_000_00000.json            {"names": [...], "seen": [...]}, written after its records

The first number of a shard is the part that wrote it, for several hosts may each write theirs; two
that write the same one take different second numbers. A shard without its json is unfinished, and
read by nobody. What was `seen` tells pictures of one name
in different data apart. ArrayRecord has a checksum for each record.
"""

import dataclasses
import functools
import json
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
from array_record.python import (
    array_record_module,  # pyright: ignore[reportAttributeAccessIssue]
)
from jaxtyping import Float, Float32, UInt8

from esam_jax import files
from esam_jax.data.names import Places
from esam_jax.errors import ConfigError, DataError, MissingError, one_line

HEADER = "features.json"
_ENDING = ".array_record"
_LARGEST = 127  # of int8, and its opposite
_FORMAT = 3
_BLOCKS, _NEAR = 4, 4  # blocks a side; levels that another decoder may differ by
_MAX_BYTES = 1_000_000_000  # of a json: some ten bytes for each record beside its name
_NO_ROOM = "free some space, or name another folder, and run the same command again"
_REMEDY = "write them with `esam features`, or name another folder"


DType = Literal["float16", "bfloat16", "int8"]
_TYPES: dict[DType, Any] = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "int8": np.int8}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
    """What the features are: two with the same header may stand for each other.

    teacher: the fields of its config that change features ("model", "features", "view").
    weights: SHA-256 of its parameters (`convert.digest`).
    view: the fields of its config by which pictures are shown to it ("image_px", "fit").
    shape: [h, w, T] of one view's features.
    """

    teacher: dict[str, Any]
    weights: str
    view: dict[str, Any]
    shape: tuple[int, int, int]
    dtype: DType

    def to_json(self) -> str:
        fields = {"format": _FORMAT, **dataclasses.asdict(self), "shape": list(self.shape)}
        return json.dumps(fields, indent=2) + "\n"

    def differences(self, other: "Header", *, but: Sequence[str] = ()) -> str:
        """In words: "teacher.model 'sam_b' instead of 'sam_h'"; empty where they agree."""
        return ", ".join(
            f"{name} {mine!r} instead of {theirs!r}"
            for name, mine, theirs in self._compared(other)
            if mine != theirs and name not in but
        )

    def _compared(self, other: "Header") -> list[tuple[str, Any, Any]]:
        rows: list[tuple[str, Any, Any]] = []
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, dict):
                keys = [*mine, *(key for key in theirs if key not in mine)]
                rows += [(f"{field.name}.{key}", mine.get(key), theirs.get(key)) for key in keys]
            else:
                rows.append((field.name, mine, theirs))
        return rows


def header(folder: str | Path) -> Header:
    """That of a folder; MissingError or DataError for one that holds no features."""
    path = Path(folder) / HEADER
    if not path.is_file():
        raise MissingError(f"{folder} holds no features ({HEADER} is not there): {_REMEDY}")
    found = files.read_json(path, max_bytes=_MAX_BYTES, error=DataError)
    fields = {field.name for field in dataclasses.fields(Header)}
    if found.get("format") != _FORMAT or not fields <= found.keys():
        raise DataError(f"{path} is of another format than {_FORMAT}: {_REMEDY}")
    shape, dtype = found["shape"], found["dtype"]
    is_sound = (
        all(isinstance(found[name], dict) for name in ("teacher", "view"))
        and (isinstance(shape, list) and len(shape) == 3)
        and all(type(side) is int and side > 0 for side in shape)
        and (isinstance(dtype, str) and dtype in _TYPES)
    )
    if not is_sound:
        raise DataError(f"{path} is damaged: {_REMEDY}")
    return Header(**{name: found[name] for name in fields - {"shape"}}, shape=(*shape,))


def view_name(record: str, number: int) -> str:
    """What features of one of a record's views are called."""
    return f"{record}#{number}"


class Reader:
    """Features by the name of a view; may be called from many threads.

    Nothing is read but what is needed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder, self.header = Path(folder), header(folder)
        self._shards = [path.stem for path in sorted(self.folder.glob("shard_*.json"))]
        self._begins, seen = [0], bytearray()  # places of the first record of each shard
        self._places = Places(self._names(seen))
        self._seen = np.frombuffer(seen, np.uint8).reshape(-1, _BLOCKS**2)

    def _names(self, seen: bytearray) -> Iterator[str]:
        """The names of all shards; what was seen of each is added to `seen`."""
        for stem in self._shards:
            names, blocks = _listed(self.folder / f"{stem}.json")
            seen.extend(blocks)
            self._begins.append(self._begins[-1] + len(names))
            yield from names

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __len__(self) -> int:
        return len(self._places)

    def features(
        self, name: str, image: UInt8[np.ndarray, "H W 3"]
    ) -> Float32[np.ndarray, "h w T"]:
        """Those of one view; DataError for damage.

        ConfigError where there are none, or those of a picture that does not look like `image`.
        """
        place = self._places.find(name)
        if place is None:
            raise ConfigError(
                f"{self.folder} has no features of {name}: they are of other pictures, or "
                "`esam features` has not finished; run it again with this data"
            )
        shard = bisect_right(self._begins, place) - 1
        path = self.folder / f"{self._shards[shard]}{_ENDING}"
        row = place - self._begins[shard]
        off = np.abs(self._seen[place] - _seen(image).astype(int))
        if off.max() > _NEAR:
            raise ConfigError(
                f"{self.folder} has features of another picture that is called {name}: write those "
                "of this data with `esam features`, or name the data that they are of"
            )
        try:
            return _unpacked(_opened(path).read([row])[0], self.header)
        except Exception as fault:  # the library answers damage with errors of several kinds
            raise DataError(
                f"{path} is damaged at the features of {name} ({one_line(fault)}): delete it and "
                "the json beside it, and run `esam features` again"
            ) from fault


def _listed(path: Path) -> tuple[list[str], bytes]:
    """The names of a shard's records and what was seen of them; DataError for a damaged json."""
    found = files.read_json(path, max_bytes=_MAX_BYTES, error=DataError)
    names: Any = found.get("names")
    seen: Any = found.get("seen")
    try:
        if not all(type(name) is str for name in names):
            raise ValueError("a name is no text")
        blocks = [bytes.fromhex(each) for each in seen]
        if len(blocks) != len(names) or any(len(each) != _BLOCKS**2 for each in blocks):
            raise ValueError("a picture has not as many blocks as are compared")
        return names, b"".join(blocks)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path} is damaged ({one_line(error)}): delete it, and run `esam features` again"
        ) from error


_READERS: dict[str, Reader] = {}
_READING = threading.Lock()  # all threads need the first one at once


def reader(folder: str) -> Reader:
    """The one reader of a folder: its index is read once, which takes a minute for millions."""
    with _READING:
        if folder not in _READERS:
            _READERS[folder] = Reader(folder)
        return _READERS[folder]


@functools.lru_cache(maxsize=256)
def _opened(path: Path) -> Any:
    if not path.is_file():  # the library makes an empty one
        raise FileNotFoundError(f"{path.name} is not there")
    return array_record_module.ArrayRecordReader(str(path))


class Writer:
    """Adds views to a folder, in shards; what it holds already is kept.

    Writers of several parts may fill one folder at the same time. ConfigError where it holds
    features of something else. `close` writes the last shard.
    """

    def __init__(
        self, folder: str | Path, header_: Header, *, part: int = 0, shard: int = 256
    ) -> None:
        self.folder, self._header, self._shard = Path(folder), header_, shard
        self._part = f"shard_{part:03d}_"
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / HEADER
        # In this order: another host may write it in between, hidden until it is complete.
        others = [each for each in self.folder.iterdir() if not each.name.startswith(".")]
        if not path.is_file():
            if others:
                raise ConfigError(f"{folder} is not empty and holds no features: name a new folder")
            files.write(path, header_.to_json())
        if fault := header(folder).differences(header_):
            raise ConfigError(
                f"{folder} holds features of something else ({fault}): name another folder"
            )
        files.remove_unfinished(self.folder)
        self.held = Reader(folder)
        own = (path.stem for path in self.folder.glob(f"{self._part}*.json"))
        self._next = 1 + max((int(stem.split("_")[2]) for stem in own), default=-1)
        self._names: list[str] = []
        self._rows: list[bytes] = []
        self._seen: list[str] = []

    def add(
        self,
        name: str,
        image: UInt8[np.ndarray, "H W 3"],
        features: Float[np.ndarray, "h w T"],
    ) -> None:
        """One more view; DataError for features that the type cannot hold."""
        self._rows.append(_packed(name, features, self._header.dtype))
        self._names.append(name)
        self._seen.append(_seen(image).tobytes().hex())
        if len(self._rows) == self._shard:
            self._flush()

    def close(self) -> None:
        if self._rows:
            self._flush()

    def _flush(self) -> None:
        path = self._claimed()
        with files.replacing_by_path(path, remedy=_NO_ROOM) as fresh:
            # Features do not compress.
            writer = array_record_module.ArrayRecordWriter(str(fresh), "group_size:1,uncompressed")
            for row in self._rows:
                writer.write(row)
            writer.close()
        listed = {"names": self._names, "seen": self._seen}
        files.write(path.with_suffix(".json"), json.dumps(listed) + "\n", remedy=_NO_ROOM)
        self._names, self._rows, self._seen = [], [], []

    def _claimed(self) -> Path:
        """An empty file of this writer alone: else the records of one lie beside another's json."""
        while True:
            path = self.folder / f"{self._part}{self._next:05d}{_ENDING}"
            self._next += 1
            try:
                path.touch(exist_ok=False)
                return path
            except FileExistsError:
                continue


def _packed(name: str, features: Float[np.ndarray, "h w T"], dtype: DType) -> bytes:
    """The record of a view. int8: each channel by the largest of its numbers."""
    numbers = np.asarray(features, np.float32)
    scales = np.zeros(0, np.float32)
    if dtype == "int8":
        scales = np.abs(numbers).max((0, 1)) / _LARGEST
        numbers = np.rint(numbers / np.where(scales > 0, scales, 1))
    with np.errstate(over="ignore", invalid="ignore"):
        short = numbers.astype(_TYPES[dtype])
    if not (np.isfinite(short.astype(np.float32)).all() and np.isfinite(scales).all()):
        remedy = "name another teacher" if dtype == "bfloat16" else "write --dtype bfloat16"
        raise DataError(f"the features of {name} are not finite in {dtype}: {remedy}")
    return scales.tobytes() + short.tobytes()


def _unpacked(record: bytes, header_: Header) -> Float32[np.ndarray, "h w T"]:
    kept = 4 * header_.shape[2] if header_.dtype == "int8" else 0
    numbers = np.frombuffer(record, _TYPES[header_.dtype], offset=kept)
    found = numbers.reshape(header_.shape).astype(np.float32)
    return found * np.frombuffer(record[:kept], np.float32) if kept else found


def _seen(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "_"]:
    """The mean green of a few blocks, which tells pictures apart, but not decoders of JPEG."""
    down, across = (side // _BLOCKS for side in image.shape[:2])
    blocks = image[: down * _BLOCKS, : across * _BLOCKS, 1]
    return blocks.reshape(_BLOCKS, down, _BLOCKS, across).mean((1, 3)).astype(np.uint8).ravel()
