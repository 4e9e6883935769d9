"""Packs of `esam data pack`: records of any other source, read by random access."""

import hashlib
import itertools
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from esam_jax import files
from esam_jax.config import PackConfig
from esam_jax.data import packed_records, packs
from esam_jax.data.findings import Finding
from esam_jax.data.packs import Shard
from esam_jax.data.record_files import Readers
from esam_jax.data.records import Record
from esam_jax.errors import ConfigError, DataError, MissingError


def open(config: PackConfig, options: str = "") -> "Pack":
    """The pack at the path of the config; a shard that is missing or cut short is an error."""
    return Pack(config)


def detects(path: str) -> PackConfig | None:
    """A folder with a pack.json, or with that of a pack that is not finished.

    ConfigError for that json itself, which another source would read.
    """
    place = Path(path).expanduser()
    if place.name == packs.MANIFEST and place.with_name(packs.IDS).is_file():
        raise ConfigError(f"{path} belongs to a pack: name its folder, {place.parent}")
    is_ours = any((place / name).is_file() for name in (packs.MANIFEST, packs.UNFINISHED))
    return PackConfig(path=path) if is_ours else None


class Pack:
    """The records of a pack, in the order in which their source had them."""

    def __init__(self, config: PackConfig) -> None:
        self._folder = Path(str(config.path)).expanduser()
        self._manifest = packs.read_manifest(self._folder)
        stretched = "stretch" in (config.sixteen_bit, self._manifest.read_as.get("sixteen_bit"))
        self._sixteen_bit: Any = "stretch" if stretched else "upper_byte"
        self._names = packs.read_names(self._folder, self._manifest)
        if not self._names:
            raise DataError(f"{self._folder} is a pack without records: pack other data")
        counts = [shard.records for shard in self._manifest.shards]
        self._ends = list(itertools.accumulate(counts))
        for shard in self._manifest.shards:
            self._require(shard)
        self._readers = Readers()
        self.categories = self._manifest.categories
        self.classes: Sequence[str] = self._manifest.classes
        self.findings: Sequence[Finding] = self._manifest.findings

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return self._names[index]

    def read(self, index: int) -> Record:
        number = bisect_right(self._ends, index)
        shard = self._manifest.shards[number]
        path, name = self._folder / shard.file, self._names[index]
        place = index - (self._ends[number] - shard.records)
        where = f"{path}: record {place} ({name})"
        try:
            data = self._readers.read(path, place, shard.records)
        except (RuntimeError, ValueError, OSError) as error:
            self._require(shard)
            words = " ".join(str(error).split())[:200]
            raise DataError(f"{where} cannot be read ({words}): copy the shard again") from error
        try:
            record = packed_records.decode_record(data, self._sixteen_bit, where)
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        if record.name != name:
            raise DataError(f"{where} is of {record.name!r}: {packs.IDS} is of another pack")
        return record

    @property
    def lacks(self) -> Mapping[str, str]:
        """The kinds of annotations that the pack does not hold, each with the reason."""
        held = self._manifest.annotations
        carried = f"with {', '.join(held)}" if held else "alone"
        reason = f"{self._folder} is a pack of pictures {carried}"
        return dict.fromkeys(sorted(PackConfig.annotations - {*held}), reason)

    def digest(self) -> str:
        """Of all shards, by their checksums."""
        shards = "".join(shard.sha256 for shard in self._manifest.shards)
        return f"pack {hashlib.sha256(shards.encode()).hexdigest()[:12]}"

    def damage(self) -> Iterator[str]:
        """A sentence for each file that is not as it was written; reads all of them."""
        for shard in self._manifest.shards:
            path = self._folder / shard.file

            def attempt(path: Path = path) -> str:
                with path.open("rb") as file:
                    return hashlib.file_digest(file, "sha256").hexdigest()

            try:
                self._require(shard)
                if files.read(path, attempt, "copy it again") != shard.sha256:
                    yield f"{path}: its checksum is wrong: copy it again, or pack the data again"
            except (DataError, MissingError) as error:
                yield str(error)

    def _require(self, shard: Shard) -> None:
        """MissingError or DataError unless the file is there with all of its bytes."""
        path = self._folder / shard.file
        size = files.read(path, lambda: path.stat().st_size, "copy this shard of the pack again")
        if size != shard.bytes:
            raise DataError(
                f"{path} has {size} bytes, but was written with {shard.bytes}: it is cut short or "
                "another file, copy it again"
            )
