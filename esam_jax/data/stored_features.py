"""A teacher's features of many pictures, in files: written once, read by the name of a record.

    features.json       what they are features of: see `Header`
    shard_00000.npy     [records, h, w, T] in 16 bits; bfloat16 as the same bits of uint16
    shard_00000.json    {"names": [...], "crc32": [...], "seen": [...]}, written after its array

A shard without its json is unfinished, and read by nobody. What was `seen` tells pictures of
one name in different data apart.
"""

import dataclasses
import functools
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
from jaxtyping import Float, Float32, UInt8

from esam_jax import files
from esam_jax.errors import ConfigError, DataError, MissingError

HEADER = "features.json"
_FORMAT = 2
_BLOCKS, _NEAR = 4, 4  # blocks a side; levels that another decoder may differ by
_MAX_BYTES = 1_000_000_000  # of a json: some ten bytes for each record beside its name
_REMEDY = "write them with `esam features`, or name another folder"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Header:
    """What the features are: two with the same header may stand for each other.

    teacher: the fields of its config that change features ("model", "features", "view").
    weights: SHA-256 of its parameters (`convert.digest`).
    view: how pictures are shown to it ("image_px", "fit").
    shape: [h, w, T] of one record's features.
    """

    teacher: dict[str, Any]
    weights: str
    view: dict[str, Any]
    shape: tuple[int, int, int]
    dtype: Literal["float16", "bfloat16"]

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
    shape = tuple(found["shape"])
    return Header(**{name: found[name] for name in fields - {"shape"}}, shape=shape)


class Reader:
    """Features by the name of a record; may be called from many threads.

    Each shard is mapped into memory, so that nothing is read but what is needed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder, self.header = Path(folder), header(folder)
        self._where: dict[str, tuple[Path, int, int, str]] = {}
        for path in sorted(self.folder.glob("shard_*.json")):
            listed = files.read_json(path, max_bytes=_MAX_BYTES, error=DataError)
            columns = (listed[key] for key in ("names", "crc32", "seen"))
            for row, (name, crc, seen) in enumerate(zip(*columns, strict=True)):
                self._where[name] = (path.with_suffix(".npy"), row, crc, seen)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def __len__(self) -> int:
        return len(self._where)

    def features(
        self, name: str, image: UInt8[np.ndarray, "H W 3"]
    ) -> Float32[np.ndarray, "h w T"]:
        """Those of one record; DataError for damage.

        ConfigError where there are none, or those of a picture that does not look like `image`.
        """
        if name not in self._where:
            raise ConfigError(
                f"{self.folder} has no features of {name}: they are of other pictures, or "
                "`esam features` has not finished; run it again with this data"
            )
        path, row, crc, seen = self._where[name]
        off = np.abs(np.frombuffer(bytes.fromhex(seen), np.uint8) - _seen(image).astype(int))
        if off.max() > _NEAR:
            raise ConfigError(
                f"{self.folder} has features of another picture that is called {name}: write those "
                "of this data with `esam features`, or name the data that they are of"
            )
        found = np.ascontiguousarray(_mapped(path)[row : row + 1])
        if zlib.crc32(found.tobytes()) != crc or found.shape[1:] != self.header.shape:
            raise DataError(
                f"{path} is damaged at the features of {name}: delete it and the json beside it, "
                "and run `esam features` again"
            )
        stored = ml_dtypes.bfloat16 if self.header.dtype == "bfloat16" else np.float16
        return found[0].view(stored).astype(np.float32)


@functools.cache
def reader(folder: str) -> Reader:
    """The one reader of a folder: its index is read once."""
    return Reader(folder)


@functools.lru_cache(maxsize=256)
def _mapped(path: Path) -> np.ndarray:
    return files.read(path, lambda: np.load(path, mmap_mode="r"), _REMEDY)


class Writer:
    """Adds records to a folder, in shards; what it holds already is kept.

    ConfigError where the folder holds features of something else. `close` writes the last shard.
    """

    def __init__(self, folder: str | Path, header_: Header, *, shard: int = 256) -> None:
        self.folder, self._header, self._shard = Path(folder), header_, shard
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / HEADER).is_file():
            if fault := header(folder).differences(header_):
                raise ConfigError(
                    f"{folder} holds features of something else ({fault}): name another folder"
                )
        elif any(self.folder.iterdir()):
            raise ConfigError(f"{folder} is not empty and holds no features: name a new folder")
        else:
            files.write(self.folder / HEADER, header_.to_json())
        self.held = Reader(folder)
        self._next = 1 + max(
            (int(path.stem.split("_")[1]) for path in self.folder.glob("shard_*.json")), default=-1
        )
        self._names: list[str] = []
        self._rows: list[np.ndarray] = []
        self._seen: list[str] = []

    def add(
        self,
        name: str,
        image: UInt8[np.ndarray, "H W 3"],
        features: Float[np.ndarray, "h w T"],
    ) -> None:
        """One more record; DataError for features that 16 bits cannot hold."""
        bfloat16 = self._header.dtype == "bfloat16"
        with np.errstate(over="ignore"):
            short = features.astype(ml_dtypes.bfloat16 if bfloat16 else np.float16)
        if not np.isfinite(short.astype(np.float32)).all():
            raise DataError(
                f"the features of {name} are not finite in {self._header.dtype}: write --dtype "
                "bfloat16, or name another teacher"
            )
        self._names.append(name)
        self._seen.append(_seen(image).tobytes().hex())
        self._rows.append(short.view(np.uint16) if bfloat16 else short)
        if len(self._rows) == self._shard:
            self._flush()

    def close(self) -> None:
        if self._rows:
            self._flush()

    def _flush(self) -> None:
        path = self.folder / f"shard_{self._next:05d}.npy"
        with files.replacing(path) as file:
            np.save(file, np.stack(self._rows))
        checksums = [zlib.crc32(x.tobytes()) for x in self._rows]
        listed = {"names": self._names, "crc32": checksums, "seen": self._seen}
        files.write(path.with_suffix(".json"), json.dumps(listed) + "\n")
        self._names, self._rows, self._seen, self._next = [], [], [], self._next + 1


def _seen(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "_"]:
    """The mean green of a few blocks, which tells pictures apart, but not decoders of JPEG."""
    down, across = (side // _BLOCKS for side in image.shape[:2])
    blocks = image[: down * _BLOCKS, : across * _BLOCKS, 1]
    return blocks.reshape(_BLOCKS, down, _BLOCKS, across).mean((1, 3)).astype(np.uint8).ravel()
