"""Makes packs: the records of a source, or of a part of it, in shards of ArrayRecord.

Which record is in which shard is decided before the first is written, and a shard holds nothing of
when, where or by how many processes it was made: whatever is killed and started again ends with the
same bytes.
"""

import csv
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from esam_jax import files
from esam_jax.config import SourceConfig
from esam_jax.config import json as config_json
from esam_jax.data import id_lists, packed_records, packs, parallel
from esam_jax.data.findings import Finding
from esam_jax.data.packs import Manifest, Shard
from esam_jax.data.parts import Part
from esam_jax.data.records import AnnotatedSource, Record, Source, classes, summary
from esam_jax.datasets import smaller
from esam_jax.errors import DataError, ExistsError, MissingError

_SAMPLED = 64  # records whose sizes say how many shards there are
_MAX_BYTES = 2**30
_MIB = 2**20
_REMEDY = "free some space, or name another folder, and run the same command again"
Over = Callable[[Iterable[None]], Iterable[None]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is packed into how many shards: of one plan, every pack has the same bytes."""

    source: str
    read_as: dict[str, Any]
    max_side: int | None
    records: int
    shards: int

    def numbers(self, shard: int) -> range:
        """The records of the source that a shard is made of."""
        first, end = (self.records * k // self.shards for k in (shard, shard + 1))
        return range(first, end)


def plan(
    source: Source,
    config: SourceConfig,
    *,
    shards: int | None = None,
    shard_mib: float = 256,
    max_side: int | None = None,
) -> Plan:
    """So many shards, or as many as there must be for so many MiB each, about.

    By the sizes of some records, spread evenly.
    """
    if shards is None:
        shards = math.ceil(_bytes(source, max_side) / (shard_mib * _MIB))
    return Plan(
        source=summary(source),
        read_as={"kind": config.kind, **config_json.to_json(config)},
        max_side=max_side,
        records=len(source),
        shards=max(1, min(shards, len(source))),
    )


def _bytes(source: Source, max_side: int | None) -> float:
    """About how many all records have."""
    sizes = []
    for index in range(0, len(source), max(1, len(source) // _SAMPLED)):
        try:
            sizes.append(len(packed_records.encode(smaller.record(source.read(index), max_side))))
        except (DataError, MissingError):
            continue
    return len(source) * sum(sizes) / max(1, len(sizes))


def write(
    source: Source,
    folder: Path,
    planned: Plan,
    *,
    workers: int = 1,
    over: Over = iter,
) -> Manifest:
    """Makes the pack in a folder, or what is missing of it.

    `over` follows the progress over the records. ExistsError for a folder that holds something
    else, or a pack of another plan; DiskError where records cannot be read for now: what is done
    is kept, and the same call continues.
    """
    with files.refusing():
        _begin(folder, planned)
    if (folder / packs.MANIFEST).is_file():
        _clean(folder)
        return packs.read_manifest(folder)
    files.remove_unfinished(folder)
    missing = [k for k in range(planned.shards) if not _sidecar(folder, k, planned).is_file()]
    work = functools.partial(_write_shard, folder, planned)
    done = (None for k in range(planned.shards) if k not in {*missing} for _ in planned.numbers(k))
    made = (
        None
        for k, _ in zip(missing, parallel.over(source, missing, work, workers, 1), strict=True)
        for _ in planned.numbers(k)
    )
    for _ in over(each for part in (done, made) for each in part):
        pass
    manifest = _finish(source, folder, planned)
    _clean(folder)
    return manifest


def _begin(folder: Path, planned: Plan) -> None:
    """Makes the folder and says what is made in it; ExistsError where that is something else."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / packs.UNFINISHED
    if (folder / packs.MANIFEST).is_file():
        found = packs.read_manifest(folder)
        there = {name: getattr(found, name) for name in ("source", "read_as", "max_side")}
        there |= {"shards": len(found.shards)}
    elif path.is_file():
        there = files.read_json(path, max_bytes=_MAX_BYTES, error=DataError)
    elif any(not each.name.startswith(".") for each in folder.iterdir()):
        raise ExistsError(f"{folder} is not empty and holds no pack: name a new folder")
    else:
        files.write(path, json.dumps(dataclasses.asdict(planned)) + "\n", remedy=_REMEDY)
        return
    wanted = dataclasses.asdict(planned)
    for name in ("source", "read_as", "max_side", "shards"):
        one, other = (_but_places(each.get(name)) for each in (there, wanted))
        if one != other:
            raise ExistsError(
                f"{folder} holds a pack with {name} {one!r:.300}, and not {other!r:.300}: name "
                "another folder"
            )


def _but_places(value: Any) -> Any:
    """Without where files lie, which may have moved; as a json has it."""
    if not isinstance(value, dict):
        return value
    return {key: each for key, each in value.items() if key not in ("path", "ids")}


def _sidecar(folder: Path, number: int, planned: Plan) -> Path:
    return (folder / packs.shard_name(number, planned.shards)).with_suffix(".json")


def _read_sidecar(path: Path) -> tuple[Shard, list[str], list[list[str]], list[str]]:
    """A shard, the names in it, those dropped with their reasons, and the kinds of annotations.

    DataError for a file that `_write_shard` has not written.
    """
    found = files.read_json(path, max_bytes=_MAX_BYTES, error=DataError)
    try:
        shard = Shard(**found["shard"])
        names, dropped, kinds = found["names"], found["dropped"], found["annotations"]
        if shard.file != path.with_suffix(packs.ENDING).name or shard.records != len(names):
            raise ValueError(f"it is of {shard.file} with {shard.records} records")
        if not all(type(text) is str for text in (*names, *itertools.chain(*dropped), *kinds)):
            raise ValueError("a name or reason is no text")
        if not all(len(each) == 2 for each in dropped):
            raise ValueError("what was dropped has no reason")
        return shard, names, dropped, kinds
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is damaged ({error}): delete it, and run the same command again"
        ) from error


def _write_shard(folder: Path, planned: Plan, source: Source, number: int) -> None:
    """Writes a shard, then the json that says so."""
    # A library that models do without; pyright does not see its compiled module.
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

    path = folder / packs.shard_name(number, planned.shards)
    names, dropped, kinds = [], [], set()
    with files.replacing_by_path(path, remedy=_REMEDY) as fresh:
        writer = array_record_module.ArrayRecordWriter(str(fresh), packs.OPTIONS)
        try:
            for index in planned.numbers(number):
                name = source.name(index)
                try:
                    id_lists.content([name])
                    data, found = _packed(source, index, planned.max_side)
                except (DataError, MissingError) as error:
                    dropped.append([name, str(error)])
                    continue
                writer.write(data)
                names.append(name)
                kinds |= {*found.annotations}
        finally:
            writer.close()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    content = {
        "shard": dataclasses.asdict(Shard(path.name, len(names), path.stat().st_size, digest)),
        "names": names,
        "dropped": dropped,
        "annotations": sorted(kinds),
    }
    files.write(path.with_suffix(".json"), json.dumps(content) + "\n", remedy=_REMEDY)


def _packed(source: Source, index: int, max_side: int | None) -> tuple[bytes, Record]:
    """A record as bytes; DataError or MissingError where any of it is broken that makes it so."""
    record = source.read(index)
    if record.name != source.name(index):
        raise DataError(f"it is called {record.name!r}")
    data = packed_records.encode(smaller.record(record, max_side))
    record.picture.rgb()  # broken pixels are found now
    masks = record.annotations.get("masks", ())
    packed = packed_records.decode_record(data).annotations.get("masks")
    if len(masks) and packed is not None and all(mask.counts is None for mask in packed.masks):
        raise DataError(f"all of its masks are broken, the first: {packed.masks[0].reason}")
    return data, record


def _finish(source: Source, folder: Path, planned: Plan) -> Manifest:
    """Writes the lists and, last of all, the manifest."""
    shards, names, dropped, kinds = [], [], [], []
    for number in range(planned.shards):
        shard, *lists = _read_sidecar(_sidecar(folder, number, planned))
        shards.append(shard)
        for all_of_them, its in zip((names, dropped, kinds), lists, strict=True):
            all_of_them += its
    ids = id_lists.content(names)
    files.write(folder / packs.IDS, ids, remedy=_REMEDY)
    table = io.StringIO()
    lines = csv.writer(table, lineterminator="\n")
    lines.writerows([("name", "reason"), *dropped])
    text = table.getvalue().encode(errors="surrogateescape")
    files.write(folder / packs.DROPPED, text, remedy=_REMEDY)
    manifest = Manifest(
        source=planned.source,
        read_as=planned.read_as,
        max_side=planned.max_side,
        records=len(names),
        dropped=len(dropped),
        annotations=tuple(sorted({*kinds})),
        categories=_categories(source),
        findings=tuple(_findings(source, dropped)),
        ids_sha256=hashlib.sha256(ids).hexdigest(),
        shards=tuple(shards),
        classes=classes(source),
    )
    text = json.dumps(manifest.to_json(), indent=1) + "\n"
    files.write(folder / packs.MANIFEST, text, remedy=_REMEDY)
    return manifest


def _categories(source: Source) -> Mapping[int, str] | None:
    """The names of the categories of objects, of a source that knows them, or of a part of one."""
    while isinstance(source, Part):
        source = source.source
    return getattr(source, "categories", None)


def _findings(source: Source, dropped: Sequence[Sequence[str]]) -> Iterator[Finding]:
    """What is known of the source, and that records were dropped."""
    if isinstance(source, AnnotatedSource):
        yield from source.findings
    if dropped:
        more = f" (the first of {len(dropped)})" if len(dropped) > 1 else ""
        text = f"{dropped[0][0]} was dropped when it was packed: {dropped[0][1]}{more}"
        yield Finding("pictures_left_out", text, len(dropped))


def _clean(folder: Path) -> None:
    """Removes what only a pack that is being made needs."""
    files.remove_unfinished(folder)
    for path in folder.glob("shard-*-of-*.json"):
        path.unlink()
    (folder / packs.UNFINISHED).unlink(missing_ok=True)
