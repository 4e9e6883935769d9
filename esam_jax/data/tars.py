"""Tar archives with their indexes, which are made once, and bytes of them from any place."""

import collections
import contextlib
import dataclasses
import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from esam_jax import files, places
from esam_jax.data import tar_index
from esam_jax.data.tar_index import Index, Stamp
from esam_jax.errors import DataError, EsamError, MissingError
from esam_jax.places import Place, StorePath
from esam_jax.words import counted

ENDING = ".tar"

_OPEN_FILES = 64  # of a process, which may have a few hundred in all
_CHECKED_SECONDS = 60.0
_AT_ONCE = 8  # archives that are indexed: their headers lie far apart, so that disks are waited for


# -------------------------------------------------------------------------------------- indexes


@dataclasses.dataclass(frozen=True)
class Indexed:
    """An archive with its index, which was `built` now, or found.

    `why` it was built again, and why it is `unstored`, are empty where that is not so.
    """

    tar: Place
    index: Index
    built: bool
    why: str = ""
    unstored: str = ""


def find(path: Place) -> list[Place]:
    """The archive that `path` is, or all *.tar at any depth below it, sorted; hidden ones aside.

    MissingError where there is no such file or folder.
    """
    if not path.is_dir():
        tar_index.stamp_of(path)
        return [path]
    found = []
    for folder, subfolders, names in places.walk(path, _refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [folder / x for x in names if x.endswith(ENDING) and not x.startswith(".")]
    return sorted(found, key=lambda tar: tar.relative_to(path).as_posix())


def index_file(tar: Place, root: Place, folder: Place | None) -> Place:
    """Where the index of an archive below `root` is: beside it, or at its place in `folder`."""
    if folder is None:
        return tar.with_name(tar.name + tar_index.SUFFIX)
    below = Path(tar.name) if tar == root else tar.relative_to(root)
    return folder / below.with_name(tar.name + tar_index.SUFFIX)


def indexed(
    tars: Sequence[Place], root: Place, folder: Place | None
) -> Iterator[Indexed | EsamError]:
    """Each archive with its index, in order; a missing one is built and stored, several at once.

    So is one that is stale or damaged. An error stands for an archive that cannot be indexed. A
    UserWarning reports the first index that cannot be stored.
    """
    refused: list[str] = []
    for parent in {index_file(tar, root, folder).parent for tar in tars}:
        with contextlib.suppress(OSError):  # where nothing may be written
            if isinstance(parent, Path):  # objects are never half there
                files.remove_unfinished(parent)  # before a thread of this process writes there

    def one(tar: Place) -> Indexed | EsamError:
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


def _indexed(tar: Place, file: Place, refused: list[str]) -> Indexed:
    why = ""
    try:
        return Indexed(tar, tar_index.read(file, tar_index.stamp_of(tar)), built=False)
    except MissingError:
        tar_index.stamp_of(tar)  # unless it is the archive that is missing
    except DataError as error:
        why = str(error)
    index, unstored = tar_index.build(tar), ""
    try:
        with files.refusing():
            if not tar_index.may_replace(file):
                raise MissingError(f"{file} is a file of another program, and is not replaced")
            file.parent.mkdir(parents=True, exist_ok=True)
            tar_index.write(index, file)
    except OSError as error:  # also a MissingError
        known = isinstance(error, EsamError)
        unstored = str(error) if known else f"{file} cannot be written ({error.strerror})"
        refused.append(unstored)
    return Indexed(tar, index, built=True, why=why, unstored=unstored)


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
        self._open: collections.OrderedDict[Place, _Handle] = collections.OrderedDict()
        self._checked: dict[StorePath, float] = {}  # when an object had its stamp

    def __reduce__(self) -> tuple[type["OpenFiles"], tuple[int]]:
        return OpenFiles, (self._most,)

    # Functions as arguments, since a program that ends empties its modules first.
    def __del__(
        self, close: Callable[[int], None] = os.close, suppress: Any = contextlib.suppress
    ) -> None:
        for handle in self._open.values():
            with suppress(OSError):
                close(handle.number)

    def read(self, path: Place, stamp: Stamp, offset: int, size: int) -> bytes:
        """That many bytes; DataError for fewer, or unless the file still has this stamp.

        That of an object is looked up once a minute: it would cost as much as the bytes.
        """
        if isinstance(path, StorePath):
            return self._fetched(path, stamp, offset, size)

        def attempt() -> bytes:
            with self._handle(path) as handle:
                found = os.fstat(handle)
                if Stamp(found.st_size, found.st_mtime_ns) != stamp:
                    raise _changed(path)
                return _all_of(path, handle, offset, size)

        return files.read(path, attempt, "check the path")

    def _fetched(self, path: StorePath, stamp: Stamp, offset: int, size: int) -> bytes:
        if time.monotonic() - self._checked.get(path, -math.inf) > _CHECKED_SECONDS:
            if tar_index.stamp_of(path) != stamp:
                raise _changed(path)
            self._checked[path] = time.monotonic()
        found = path.fetch(offset, size)
        if len(found) < size:
            raise _cut(path, offset + len(found))
        return found

    @contextlib.contextmanager
    def _handle(self, path: Place) -> Iterator[int]:
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


def _changed(path: Place) -> DataError:
    return DataError(f"{path} was changed while it is read: start again")


def _cut(path: Place, end: int) -> DataError:
    return DataError(f"{path} ends at byte {end}: fetch it again")


def _all_of(path: Place, handle: int, offset: int, size: int) -> bytes:
    parts, left = [], size
    while left:
        part = os.pread(handle, left, offset + size - left)
        if not part:
            raise _cut(path, offset + size - left)
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
