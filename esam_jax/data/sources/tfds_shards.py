"""The records of a prepared split, in serialized form: ArrayRecord files, read in any order."""

import bisect
import dataclasses
import errno
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from esam_jax import files
from esam_jax.data.record_files import Readers
from esam_jax.data.sources import tfds_folder
from esam_jax.errors import ConfigError, DataError, EsamError, MissingError, one_line

_READERS = 16  # of the records that a digest is made of
_DIGESTED = 100
_REMEDY = "fetch or prepare it again"


@dataclasses.dataclass(frozen=True)
class _Shard:
    """Records of one file: `take` from `skip` on; its first one has the number `first` in `split`.

    `records` are all that the file must have.
    """

    path: Path
    split: str
    first: int
    skip: int
    take: int
    records: int


class Shards:
    """The records of a split by index, which many threads and, pickled, other processes may read.

    Files are opened when a record of theirs is first read. The name of a record is its split and
    its number there, which is the same in every part of the split, and needs no file.
    """

    def __init__(self, folder: Path, builder: Any, split: str, options: str) -> None:
        """Of tensorflow-datasets' `builder` of a checked folder; ConfigError for no such split."""
        from tensorflow_datasets.core.decode import DeserializeMethod

        try:
            if not builder.info.splits[split].num_examples:
                raise DataError(f"{folder}: the split {split!r} holds no record: choose another")
            # Before files are listed: it chooses the format whose files those are. It is not read
            # itself, for it would keep all of them open: ImageNet's are 1024.
            builder.as_data_source(
                split,
                deserialize_method=DeserializeMethod.RAW_BYTES,
                file_format=tfds_folder.FORMAT,
            )
            instructions = builder.info.splits[split].file_instructions
            self._shards = _shards(folder, builder.info.splits, instructions)
        except DataError:
            raise
        except Exception as error:  # asserts, ValueErrors and KeyErrors, by the kind of mistake
            raise ConfigError(
                f"{folder} has no split {split!r} ({one_line(error)}): --{options}split may be "
                f"{', '.join(builder.info.splits)}, or a part of one, such as train[:10%]"
            ) from error
        self._ends = list(itertools.accumulate(shard.take for shard in self._shards))
        self._folder, self._checked, self._readers = folder, set(), Readers()
        _require_sound(folder, split, self._shards)

    def __len__(self) -> int:
        return self._ends[-1]

    def name(self, index: int) -> str:
        shard, position = self._place(index)
        return f"{shard.split}/{shard.first + position:08d}"

    def read(self, index: int) -> bytes:
        """DataError, MissingError or DiskError, which name the file and the record."""
        shard, position = self._place(index)
        where = f"{self.name(index)}: record {position} of {shard.path}"
        try:
            if shard.path not in self._checked:
                _check(shard, where)
                self._checked.add(shard.path)
            return _retried(lambda: self._readers.read(shard.path, position, shard.records), where)
        except EsamError:
            raise
        except Exception as error:  # the readers of ArrayRecord raise RuntimeError alone
            _require_file(shard.path)
            raise DataError(f"{where} is broken ({one_line(error)[:200]}): {_REMEDY}") from error

    def digest(self) -> str:
        """Of what describes the data set, of the sizes of its files, and of a hundred records."""
        found = hashlib.sha256()
        for name in (tfds_folder.INFO, tfds_folder.FEATURES):
            path = self._folder / name
            found.update(hashlib.sha256(files.read(path, path.read_bytes, "")).digest())
        found.update(repr([_require_file(shard.path) for shard in self._shards]).encode())
        chosen = range(0, len(self), max(1, len(self) // _DIGESTED))
        with ThreadPoolExecutor(_READERS) as pool:
            found.update(b"".join(pool.map(self._digest_of, chosen)))
        return f"tfds {found.hexdigest()[:12]}"

    def _place(self, index: int) -> tuple[_Shard, int]:
        """The file of a record, and its number there."""
        which = bisect.bisect_right(self._ends, index)
        shard = self._shards[which]
        return shard, shard.skip + index - (self._ends[which] - shard.take)

    def _digest_of(self, index: int) -> bytes:
        try:
            return hashlib.sha256(self.read(index)).digest()
        except (DataError, MissingError):  # it is left out, if it is met
            return bytes(32)


def _shards(folder: Path, splits: Any, instructions: Any) -> list[_Shard]:
    """The files of a split or of parts of splits, in order; DataError for lengths below 0."""
    places: dict[str, tuple[str, int]] = {}
    for name, info in splits.items():
        least = min(info.shard_lengths, default=0)
        if least < 0:
            where = folder / tfds_folder.INFO
            raise DataError(f"{where}: the split {name!r} has a file of {least} records: {_REMEDY}")
        firsts = itertools.accumulate(info.shard_lengths, initial=0)
        places |= {os.fspath(path): (name, first) for path, first in zip(info.filepaths, firsts)}
    return [
        _Shard(
            Path(each.filename),
            *places[os.fspath(each.filename)],
            skip=int(each.skip),
            take=int(each.take),
            records=int(each.examples_in_shard),
        )
        for each in instructions
    ]


def _require_sound(folder: Path, split: str, shards: list[_Shard]) -> None:
    """Errors for a file that lies elsewhere or is not there, and for a record that comes twice."""
    for shard in shards:
        if shard.path.parent != folder:
            where = folder / tfds_folder.INFO
            raise DataError(f"{where} names {shard.path}, which lies elsewhere: {_REMEDY}")
        size = _require_file(shard.path)
        if shard.records > size:
            raise DataError(
                f"{shard.path} cannot hold {shard.records} records, it has {size} bytes: {_REMEDY}"
            )
    for path, count in Counter(shard.path for shard in shards).items():
        parts = sorted((x.skip, x.skip + x.take) for x in shards if count > 1 and x.path == path)
        if any(low < end for (_, end), (low, _) in itertools.pairwise(parts)):
            raise ConfigError(
                f"the split {split!r} holds records of {path.name} twice: name each part once"
            )


def _require_file(path: Path) -> int:
    """Its bytes; MissingError or DiskError where there is none."""
    return files.read(path, lambda: os.stat(path).st_size, _REMEDY)


def _check(shard: _Shard, where: str) -> None:
    """DataError unless the file has as many records as were written.

    One that is cut short can end in a way that its reader accepts, and then gives other records.
    """
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    _require_file(shard.path)
    try:
        found = _retried(lambda: len(ArrayRecordDataSource(os.fspath(shard.path))), where)
    except RuntimeError as error:
        raise DataError(
            f"{where} cannot be read, the file is damaged ({one_line(error)[:200]}): {_REMEDY}"
        ) from error
    if found != shard.records:
        raise DataError(
            f"{where} cannot be read, the file has {found} records instead of {shard.records}: "
            f"{_REMEDY}"
        )


def _retried(read: Callable[[], Any], where: str) -> Any:
    """What is read, as `files.read` does: DiskError where a transient error of a disk persists."""

    def attempt() -> Any:
        try:
            return read()
        except RuntimeError as error:  # which names what the system has reported
            if files.is_transient(error):
                raise OSError(errno.EIO, one_line(error)[:200]) from error
            raise

    return files.read(where, attempt, _REMEDY)
