"""The files of many tar archives, read where they lie: nothing is unpacked.

An archive is indexed once (`tar_index.py`): beside it, or in a folder of indexes. Files are read by
`pread`, so that threads share no position; a copy in another process opens the archives itself.
"""

import collections
import contextlib
import dataclasses
import itertools
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Integer, UInt64
from tqdm import tqdm

from esam_jax import files
from esam_jax.data import tar_index
from esam_jax.data.tar_index import BLOCK, NO_NUMBER, Index, Stamp
from esam_jax.errors import DataError, EsamError, MissingError
from esam_jax.words import counted

ENDING = ".tar"

_OPEN_FILES = 64  # of a process, which may have a few hundred in all
_AT_ONCE = 8  # archives that are indexed: their headers lie far apart, so that disks are waited for
_MOST_TARS = 2**16 - 1

Reader = Callable[[int], bytes]


# -------------------------------------------------------------------------------------- indexes


@dataclasses.dataclass(frozen=True)
class Indexed:
    """An archive with its index, which was `built` now, or found; `why` one was built again."""

    tar: Path
    index: Index
    built: bool
    why: str = ""


def find(path: Path) -> list[Path]:
    """The archive that `path` is, or all *.tar at any depth below it, sorted; hidden ones aside.

    MissingError where there is no such file or folder.
    """
    if not path.is_dir():
        tar_index.stamp_of(path)
        return [path]
    found = []
    for folder, subfolders, names in os.walk(path, onerror=_refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [Path(folder, x) for x in names if x.endswith(ENDING) and not x.startswith(".")]
    return sorted(found, key=lambda tar: tar.relative_to(path).as_posix())


def index_file(tar: Path, root: Path, folder: Path | None) -> Path:
    """Where the index of an archive below `root` is: beside it, or at its place in `folder`."""
    if folder is None:
        return tar.with_name(tar.name + tar_index.SUFFIX)
    below = Path(tar.name) if tar == root else tar.relative_to(root)
    return folder / below.with_name(tar.name + tar_index.SUFFIX)


def indexed(tars: Sequence[Path], root: Path, folder: Path | None) -> Iterator[Indexed | EsamError]:
    """Each archive with its index, in order; a missing one is built and stored, several at once.

    So is one that is stale or damaged. An error stands for an archive that cannot be indexed. A
    UserWarning reports the first index that cannot be stored.
    """
    refused: list[str] = []
    for parent in {index_file(tar, root, folder).parent for tar in tars}:
        with contextlib.suppress(OSError):  # where nothing may be written
            files.remove_unfinished(parent)  # before a thread of this process writes there

    def one(tar: Path) -> Indexed | EsamError:
        try:
            return _indexed(tar, index_file(tar, root, folder), refused)
        except EsamError as error:
            return error

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield from pool.map(one, tars)
    if refused:
        warnings.warn(
            f"{refused[0]}: {counted(len(refused), 'index', 'indexes')} could not be stored, and "
            "will be built again at every start",
            UserWarning,
            stacklevel=2,
        )


def _indexed(tar: Path, file: Path, refused: list[str]) -> Indexed:
    why = ""
    try:
        return Indexed(tar, tar_index.read(file, tar_index.stamp_of(tar)), built=False)
    except MissingError:
        tar_index.stamp_of(tar)  # unless it is the archive that is missing
    except DataError as error:
        why = str(error)
    index = tar_index.build(tar)
    try:
        with files.refusing():
            if not tar_index.may_replace(file):
                raise MissingError(f"{file} is a file of another program, and is not replaced")
            file.parent.mkdir(parents=True, exist_ok=True)
            tar_index.write(index, file)
    except OSError as error:  # also a MissingError
        refused.append(str(error))
    return Indexed(tar, index, built=True, why=why)


def _refuse(fault: OSError) -> None:
    raise files.read_error(fault.filename, fault, "make it readable, or move it away") from fault


# --------------------------------------------------------------------------------------- reading


@dataclasses.dataclass
class _Handle:
    number: int
    users: int = 0
    dropped: bool = False  # to be closed by its last user


class OpenFiles:
    """Files that are open for `pread`, the least recently used of them closed again.

    May be used by many threads; a copy for another process has none open.
    """

    def __init__(self, most: int = _OPEN_FILES) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._open: collections.OrderedDict[Path, _Handle] = collections.OrderedDict()

    def __reduce__(self) -> tuple[type["OpenFiles"], tuple[int]]:
        return OpenFiles, (self._most,)

    def __del__(self) -> None:
        for handle in self._open.values():
            with contextlib.suppress(OSError):
                os.close(handle.number)

    def read(self, path: Path, stamp: Stamp, offset: int, size: int) -> bytes:
        """That many bytes; DataError for fewer, or unless the file still has this stamp."""

        def attempt() -> bytes:
            with self._handle(path) as handle:
                found = os.fstat(handle)
                if Stamp(found.st_size, found.st_mtime_ns) != stamp:
                    raise DataError(f"{path} was changed while it is read: start again")
                return _all_of(path, handle, offset, size)

        return files.read(path, attempt, "check the path")

    @contextlib.contextmanager
    def _handle(self, path: Path) -> Iterator[int]:
        with self._lock:
            handle = self._open.get(path)
            if handle is None:
                handle = self._open[path] = _Handle(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            self._open.move_to_end(path)
            handle.users += 1
        try:
            yield handle.number
        except (OSError, DataError):  # the next attempt opens it again, as it may be another file
            with self._lock:
                if self._open.get(path) is handle:
                    del self._open[path]
                    handle.dropped = True
            raise
        finally:
            with self._lock:
                handle.users -= 1
                if handle.dropped and not handle.users:
                    os.close(handle.number)
                self._close_unused()

    def _close_unused(self) -> None:
        for path, handle in list(self._open.items())[: max(0, len(self._open) - self._most)]:
            if not handle.users:
                del self._open[path]
                os.close(handle.number)


def _all_of(path: Path, handle: int, offset: int, size: int) -> bytes:
    parts, left = [], size
    while left:
        part = os.pread(handle, left, offset + size - left)
        if not part:
            raise DataError(f"{path} ends at byte {offset + size - left}: fetch it again")
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


# ---------------------------------------------------------------------------------------- shelf


class Shelf:
    """Files of several archives as one list, in the order of their names, each name once.

    Its memory is that of `rows`, beside common strings. A row begins with the place of its archive
    in `tars`, then has the fields of ROW, whose `head` and `tail` are places in `strings`, then
    what a source has added.
    """

    def __init__(
        self,
        tars: Sequence[Path],
        stamps: Sequence[Stamp],
        strings: tuple[str, ...],
        rows: np.ndarray,
        open_files: OpenFiles,
    ) -> None:
        self.tars, self.stamps, self.strings, self.rows = tars, stamps, strings, rows
        self._files = open_files

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: Integer[np.ndarray, " X"]) -> "Shelf":
        """Some of the files, in that order."""
        rows = self.rows[places]
        return Shelf(self.tars, self.stamps, self.strings, rows, self._files)

    def name(self, index: int) -> str:
        row, strings = self.rows[index], self.strings
        return tar_index.joined(strings[row["head"]], int(row["number"]), strings[row["tail"]])

    def tar(self, index: int) -> Path:
        """The archive of a file."""
        return self.tars[int(self.rows[index]["tar"])]

    def reader(self, index: int, block: str = "block", size: str = "size") -> Reader:
        """What reads on in a file, as the `read` of an open one; fields of a row say where it is.

        It raises DataError for an archive that was changed or cut short, MissingError and DiskError
        as `files.read`.
        """
        row = self.rows[index]
        place, offset, left = int(row["tar"]), int(row[block]) * BLOCK, int(row[size])

        def read(most: int) -> bytes:
            nonlocal offset, left
            count = min(most, left)
            if not count:
                return b""
            found = self._files.read(self.tars[place], self.stamps[place], offset, count)
            offset, left = offset + count, left - count
            return found

        return read


Select = Callable[[Path, Index], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Opened:
    """The files of `open_shelf`; of one name in several archives the first counts.

    `repeated` are the others, as archive and name; `left_out` counts entries that are not read, by
    reason.
    """

    shelf: Shelf
    repeated: tuple[tuple[Path, str], ...]
    left_out: Mapping[str, int]


def open_shelf(path: Path, folder: Path | None, select: Select, *, folders: bool = False) -> Opened:
    """What `select` takes of the archive `path`, or of all archives below it.

    It gets an archive and its index, and gives rows of it, perhaps with more fields. With `folders`
    names begin with that of their archive, as if each were unpacked into one. Indexes that
    are missing are built, with progress on a terminal; a UserWarning names each that was stale or
    damaged. DataError for an archive that cannot be used, or where there is none.
    """
    tars = find(path)
    if not tars:
        raise DataError(f"{path} holds no {ENDING} file at any depth")
    if len(tars) > _MOST_TARS:
        raise DataError(f"{path} holds {len(tars)} archives, but at most {_MOST_TARS} are read")
    strings: dict[str, int] = {}
    parts: list[np.ndarray] = []
    stamps: list[Stamp] = []
    left_out: collections.Counter[str] = collections.Counter()
    waiting = indexed(tars, path, folder)
    hidden = not sys.stderr.isatty()
    for found in tqdm(waiting, "index tars", len(tars), unit="tar", disable=hidden):
        if isinstance(found, EsamError):
            raise found
        if found.why:
            warnings.warn(f"{found.why}: built again", UserWarning, stacklevel=2)
        rows = select(found.tar, found.index)
        parent = found.tar.relative_to(path).with_suffix("").as_posix() if folders else None
        parts.append(_part(len(parts), found.index, rows, strings, parent))
        stamps.append(found.index.stamp)
        left_out.update(found.index.left_out)
    shelf = Shelf(tars, stamps, tuple(strings), np.concatenate(parts), OpenFiles())
    parts.clear()  # as large as the rows
    return _by_name(shelf, left_out)


def _part(
    place: int, index: Index, rows: np.ndarray, strings: dict[str, int], parent: str | None
) -> np.ndarray:
    """Rows of one archive with its place, and with the places of their strings among all."""
    made = np.empty(len(rows), [("tar", "<u2"), *rows.dtype.descr])
    made["tar"] = place
    for field in rows.dtype.names or ():
        made[field] = rows[field]
    for field in ("head", "tail"):
        before = f"{parent}/" if field == "head" and parent is not None else ""
        used, inverse = np.unique(rows[field], return_inverse=True)
        texts = [f"{before}{index.strings[each]}" for each in used.tolist()]
        known = [strings.setdefault(text, len(strings)) for text in texts]
        made[field] = np.array(known, np.uint32)[inverse]
    return made


def _by_name(shelf: Shelf, left_out: Mapping[str, int]) -> Opened:
    rows = shelf.rows
    order = _order(shelf)
    repeats = np.zeros(len(rows), bool)
    repeats[1:] = True
    for field in ("head", "number", "tail"):
        values = rows[field][order]
        repeats[1:] &= values[1:] == values[:-1]
    repeated = [(shelf.tar(i), shelf.name(i)) for i in order[repeats].tolist()]
    return Opened(shelf.take(order[~repeats]), tuple(repeated), dict(left_out))


def _order(shelf: Shelf) -> Integer[np.ndarray, " X"]:
    """The places of all rows in the order of their names, by code point, then of their archives.

    Without making the names where that is possible: there may be eleven million.
    """
    rows, strings = shelf.rows, shelf.strings
    heads = sorted({strings[i] for i in np.unique(rows["head"]).tolist()})
    tails = sorted({strings[i] for i in np.unique(rows["tail"]).tolist()})
    apart = not any(b.startswith(a) for a, b in itertools.pairwise(heads))
    if not apart or any(tail[:1] >= "0" for tail in tails):
        names = [shelf.name(i) for i in range(len(rows))]
        return np.array(sorted(range(len(rows)), key=names.__getitem__), np.int64)
    # No head begins another, and each tail comes before any digit: heads decide, then digits.
    ranks = np.zeros(len(strings), np.uint32)
    keys = []
    for field, texts in (("tail", tails), ("head", heads)):
        places = {text: rank for rank, text in enumerate(texts)}
        for i in np.unique(rows[field]).tolist():
            ranks[i] = places[strings[i]]
        keys.append(ranks[rows[field]])
    keys.insert(1, _decimal(rows["number"]))
    varying = [key for key in keys if len(key) and (key != key[0]).any()]
    return np.lexsort(varying) if varying else np.arange(len(rows))


def _decimal(numbers: Integer[np.ndarray, " X"]) -> UInt64[np.ndarray, " X"]:
    """Keys in the order of numbers as text: 1, 10, 100, 11, 2; the lack of one comes first."""
    powers = 10 ** np.arange(1, 10, dtype=np.uint64)
    digits = np.searchsorted(powers, numbers, side="right").astype(np.uint64) + np.uint64(1)
    keys = numbers.astype(np.uint64) * np.uint64(10) ** (np.uint64(10) - digits)
    keys = keys * np.uint64(16) + digits
    keys[numbers == NO_NUMBER] = 0
    return keys
