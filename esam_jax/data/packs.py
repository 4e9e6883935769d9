"""A pack: records of any source in files of ArrayRecord, one record to each group.

    pack.json                   what was packed and how, and the shards, with sizes and SHA-256
    ids.txt                     the name of each record, in the order of the shards
    dropped.csv                 name and reason of each record that could not be used
    shard-00000-of-00007.array_record, ...

What a record is: `data/packed_records.py`. While a pack is made, `unfinished.json` says of what,
and each shard that is complete has a json beside it; a pack with pack.json needs neither.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esam_jax import files
from esam_jax.data.findings import KINDS, Finding
from esam_jax.data.names import Names
from esam_jax.errors import DataError, MissingError

MANIFEST, UNFINISHED, IDS, DROPPED = "pack.json", "unfinished.json", "ids.txt", "dropped.csv"
FORMAT, ENDING = 1, ".array_record"
OPTIONS = "group_size:1,uncompressed"  # pictures are compressed, and masks are short
_MAX_BYTES = 2**30
_REMEDY = "name a folder that `esam data pack` has made"


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of a pack."""

    file: str
    records: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """pack.json. `source` is the summary of what was packed, `read_as` its config.

    `categories` are the names of those of objects, by their ids, where the source has them;
    `classes` those of pictures, in the order of their numbers. Earlier packs lack the latter.
    """

    source: str
    read_as: dict[str, Any]
    max_side: int | None
    records: int
    dropped: int
    annotations: tuple[str, ...]
    categories: Mapping[int, str] | None
    findings: tuple[Finding, ...]
    ids_sha256: str
    shards: tuple[Shard, ...]
    classes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **dataclasses.asdict(self)}


def shard_name(number: int, of: int) -> str:
    """The file of a shard."""
    return f"shard-{number:05d}-of-{of:05d}{ENDING}"


def read_manifest(folder: Path) -> Manifest:
    """That of a folder; MissingError for an unfinished pack or none, DataError for a broken one."""
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / UNFINISHED).is_file():
            raise MissingError(
                f"{folder} is a pack that is not finished: run the same `esam data pack` again"
            )
        raise MissingError(f"{folder} is no pack ({MANIFEST} is not there): {_REMEDY}")
    found = files.read_json(path, max_bytes=_MAX_BYTES, error=DataError)
    if found.get("format") != FORMAT:
        raise DataError(
            f"{path} has the format {str(found.get('format'))[:20]}, but this release reads "
            f"{FORMAT}: pack the data again"
        )
    try:
        return _manifest(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}): pack the data again") from error


def _manifest(found: dict[str, Any]) -> Manifest:
    """ValueError or the like for values that no pack has."""
    shards = tuple(Shard(**entry) for entry in found["shards"])
    for number, shard in enumerate(shards):
        if shard.file != shard_name(number, len(shards)):
            raise ValueError(f"shard {number} is {shard.file!r:.80}")
        if not all(type(x) is int and x >= 0 for x in (shard.records, shard.bytes)):
            raise ValueError(f"{shard.file} has sizes that are none")
        if type(shard.sha256) is not str:
            raise ValueError(f"{shard.file} has a checksum that is no text")
    manifest = Manifest(
        source=found["source"],
        read_as=dict(found["read_as"]),
        max_side=found["max_side"],
        records=found["records"],
        dropped=found["dropped"],
        annotations=tuple(found["annotations"]),
        categories=_categories(found["categories"]),
        findings=tuple(Finding(**entry) for entry in found["findings"]),
        ids_sha256=found["ids_sha256"],
        shards=shards,
        classes=tuple(found.get("classes", ())),
    )
    if manifest.records != sum(shard.records for shard in shards):
        raise ValueError(f"its shards do not hold the {manifest.records} records that it states")
    if not all(
        type(each) is str for each in (manifest.source, *manifest.annotations, *manifest.classes)
    ):
        raise ValueError("what was packed is no text")
    if not all(type(x.text) is str and type(x.count) is int for x in manifest.findings):
        raise ValueError("a finding has other values than a text and a count")
    if unknown := {each.kind for each in manifest.findings} - {*KINDS}:
        raise ValueError(f"findings of the kinds {unknown} are not known")
    return manifest


def _categories(found: Any) -> dict[int, str] | None:
    if found is None:
        return None
    if not all(type(name) is str for name in found.values()):
        raise ValueError("a category has a name that is no text")
    return {int(key): name for key, name in found.items()}  # keys of a json are text


def read_names(folder: Path, manifest: Manifest) -> Names:
    """The names of all records; DataError where the list is not the one that was written."""
    path = folder / IDS

    def attempt() -> bytes:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise DataError(f"{path} has {size} bytes, but at most {_MAX_BYTES} are read")
        return path.read_bytes()

    data = files.read(path, attempt, "a pack needs it: copy it again, or pack the data again")
    names = data.decode(errors="surrogateescape").split("\n")
    if hashlib.sha256(data).hexdigest() != manifest.ids_sha256:
        raise DataError(f"{path} is damaged, its checksum is wrong: copy it again")
    if len(names) - 1 != manifest.records:
        raise DataError(f"{path} has {len(names) - 1} names of {manifest.records} records")
    return Names(names[:-1])
