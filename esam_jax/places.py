"""Where data lies: a path on this machine, or one in an object store (`gs://`, `s3://`, ...).

`place` makes either of a config's string. A local one is a plain `pathlib.Path`. A `StorePath` has
the interface of `etils.epath.Path`, with the file systems of fsspec behind it (gcsfs for `gs://`,
s3fs for `s3://`). The paths that epath itself makes of such strings are not used: they import
TensorFlow where it is installed, know four kinds of store and neither `rglob` nor the version of an
object, and read 5 MB for each range of a few bytes.

A store is asked as seldom as can be: a folder is listed by one call, a picture is read by one, and
nothing is cached that may change. Names of records are those of the same files in a local folder.
"""

import errno
import fnmatch
import hashlib
import io
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import Any, NamedTuple, TypeVar

from etils import epath

from esam_jax import files
from esam_jax.errors import ConfigError, EsamError, MissingError

_T = TypeVar("_T")

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
_AT_ONCE = 16  # folders that are listed: each waits for the network
_AHEAD = 2**13  # bytes of the first read of a file, and after a seek: headers of a tar lie apart
_MOST_AHEAD = 2**23  # of later ones, which are twice as large each time
_PATIENCE_SECONDS = 10.0  # a client that took longer has tried again by itself
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}  # ours, by scheme
_VERSION = ("generation", "ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified")
_VERSION += ("last_modified", "updated", "created")  # what stores call what changes with an object

# Clients of stores have errors of their own, known by name, as few of them are installed.
_DENIED = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"}
_DENIED |= {"TokenRetrievalError", "SSOError", "DefaultCredentialsError", "RefreshError"}
_PASSING = {"ClientConnectionError", "ClientPayloadError", "HTTPClientError", "TransportError"}
_PASSING |= {"RequestException", "ChecksumError", "ConnectionError", "TimeoutError"}
_LOG_IN = (
    "log in (gcloud auth application-default login for gs://, aws configure or aws sso login for "
    "s3://), or let its owner give this account access"
)


class Status(NamedTuple):
    """Of a file or folder, named as in `os.stat_result`.

    `st_mtime_ns` is a number that changes when an object does, made of what the store says of its
    version; 0 where that is nothing.
    """

    st_mode: int
    st_size: int
    st_mtime_ns: int


class StorePath(epath.Path):
    """A path in an object store: what is read of it raises the errors of `files.read`.

    MissingError where there is no such object or bucket, or access is denied; DiskError where the
    store does not answer for some seconds. May be used by many threads, and sent to processes.
    """

    def __str__(self) -> str:
        if not self.is_absolute() or len(self.parts) < 2:
            return super().__str__()
        return f"{self.parts[1]}://{'/'.join(self.parts[2:])}"

    def __fspath__(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return f"StorePath({str(self)!r})"

    def expanduser(self) -> "StorePath":
        return self

    def resolve(self, strict: bool = False) -> "StorePath":
        return self

    # ------------------------------------------------------------------------------- what is there

    def exists(self) -> bool:
        return self._info() is not None

    def is_dir(self) -> bool:
        return (info := self._info()) is not None and info["type"] == "directory"

    def is_file(self) -> bool:
        return (info := self._info()) is not None and info["type"] != "directory"

    def stat(self) -> Status:  # pyright: ignore[reportIncompatibleMethodOverride]
        info = self._ask(lambda store, key: store.info(key))
        if info["type"] == "directory":
            return Status(stat.S_IFDIR, 0, 0)
        return Status(stat.S_IFREG, int(info.get("size") or 0), _version(info))

    def listed(self) -> tuple[list[str], list[str]]:
        """The names of the folders and of the files in a folder, sorted, by one call."""
        found: dict[bool, set[str]] = {True: set(), False: set()}

        def ask(store: Any, key: str) -> Any:
            # A folder may have an object of its own name, and a file is listed as itself.
            entries = store.ls(key, detail=True)
            return [x for x in entries if x["name"].strip("/") != key.strip("/")]

        for entry in self._ask(ask):
            name = entry["name"].rstrip("/").rsplit("/", 1)[-1]
            found[entry["type"] == "directory"].add(name)
        return sorted(found[True]), sorted(found[False])

    def iterdir(self) -> "Iterator[StorePath]":
        for names in self.listed():
            yield from (self / name for name in names)

    def walk(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
    ) -> "Iterator[tuple[StorePath, list[str], list[str]]]":
        """As `os.walk` from the top, level by level, several folders at once.

        Names that are taken out of the list of folders are not entered.
        """
        level = [self]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            while level:
                below: list[StorePath] = []
                for first in range(0, len(level), _AT_ONCE):  # few at once: a caller may stop
                    some = level[first : first + _AT_ONCE]
                    for folder, found in zip(some, pool.map(StorePath.listed, some), strict=True):
                        yield folder, *found
                        below += [folder / name for name in found[0]]
                level = below

    def rglob(self, pattern: str) -> "Iterator[StorePath]":
        """The files, and no folders, at any depth whose own name fits."""
        for folder, _, names in self.walk() if self.is_dir() else ():
            yield from (folder / name for name in fnmatch.filter(names, pattern))

    def glob(self, pattern: str) -> "Iterator[StorePath]":
        """The files below that fit, where each part of the pattern is a name or has a "*"."""
        first, _, rest = pattern.partition("/")
        if "*" not in first:
            found = [self / first]
        elif rest:
            found = [self / name for name in fnmatch.filter(self.listed()[0], first)]
        else:
            yield from (self / name for name in fnmatch.filter(self.listed()[1], first))
            return
        for each in found:
            if rest and each.is_dir():
                yield from each.glob(rest)
            elif not rest and each.is_file():
                yield each

    def _info(self) -> Any:
        """What the store says; None where there is nothing of this name."""

        def ask(store: Any, key: str) -> Any:
            try:
                return store.info(key)
            except (FileNotFoundError, NotADirectoryError):
                return None

        return self._ask(ask)

    # ------------------------------------------------------------------------------------ content

    def open(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, mode: str = "rb", *, ahead: int = _AHEAD
    ) -> "_File":
        """The object, to be read; its first read asks for `ahead` bytes at least."""
        if mode != "rb":
            raise ValueError(f"mode is {mode!r}, but an object is only read, as bytes: write rb")
        return _File(self, ahead)

    def fetch(self, start: int, count: int) -> bytes:
        """So many bytes from `start`, or those up to the end; by one call."""

        def ask(store: Any, key: str) -> bytes:
            try:
                return store.cat_file(key, start=start, end=start + count)
            except FileNotFoundError:
                raise
            except Exception as fault:  # HTTP 416, which each store reports in its own way
                if isinstance(_translated(self, fault), EsamError | TimeoutError):
                    raise
                if store.info(key)["size"] <= start:
                    return b""
                raise

        return self._ask(ask) if count else b""

    def mkdir(self, mode: int | None = None, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a store has no folders but those in the names of its objects."""

    def write_bytes(self, data: bytes) -> int:
        """Replaces the object: nobody ever sees a part of it. Errors as of reading."""
        self._ask(lambda store, key: store.pipe_file(key, data), "written")
        return len(data)

    def _ask(self, do: Callable[[Any, str], _T], what: str = "read") -> _T:
        store = _store(self.parts[1])
        key = store._strip_protocol(str(self))

        def attempt() -> _T:
            started = time.monotonic()
            try:
                return do(store, key)
            except Exception as fault:  # of any client
                found = _translated(self, fault, what)
                waited = time.monotonic() - started > _PATIENCE_SECONDS
                if waited and isinstance(found, TimeoutError):
                    found = files.read_error(str(self), found, "")
                raise found from fault

        return files.read(str(self), attempt, "check the path")


Place = Path | StorePath


def place(name: str | PurePath) -> Place:
    """The path that a string means, "~" replaced; ConfigError for an address that is no store's."""
    address = _ADDRESS.fullmatch(str(name))
    if address is None:
        return Path(name).expanduser()
    if not files.is_store(str(name)):
        raise ConfigError(f"{str(name)!r} is an address, but {files.READABLE}")
    return StorePath("/", address[1].lower(), address[2])


def walk(
    root: Place, refuse: Callable[[OSError], object]
) -> Iterator[tuple[Place, list[str], list[str]]]:
    """As `os.walk`; `refuse` raises the error of a local folder that cannot be listed."""
    if isinstance(root, StorePath):
        yield from root.walk()
        return
    for folder, subfolders, names in os.walk(root, onerror=refuse):
        yield Path(folder), subfolders, names


def is_there(path: Place) -> bool:
    """Whether it is a file; False for a name that no file can have."""
    return path.is_file() if isinstance(path, StorePath) else os.path.isfile(path)


def write(path: Place, content: bytes, *, remedy: str) -> None:
    """Replaces a file or an object; MissingError with the remedy where it cannot be."""
    if isinstance(path, StorePath):
        path.write_bytes(content)
    else:
        files.write(path, content, remedy=remedy)


class _File(io.RawIOBase):
    """An object that is read from any place, ahead where it is read on."""

    def __init__(self, path: StorePath, ahead: int) -> None:
        super().__init__()
        self._path, self._least, self._ahead = path, ahead, ahead
        self._place = self._first = (
            0  # of the next byte that is read, and of the first that is kept
        )
        self._kept = b""
        self._end: int | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        starts = {os.SEEK_SET: lambda: 0, os.SEEK_CUR: self.tell, os.SEEK_END: self._length}
        self._place = starts[whence]() + offset
        return self._place

    def read(self, size: int = -1) -> bytes:
        if size is None or size < 0:
            size = max(self._length() - self._place, 0)
        start = self._place - self._first
        if not 0 <= start <= len(self._kept):
            self._kept, self._first, self._ahead, start = b"", self._place, self._least, 0
        lacking = start + size - len(self._kept)
        end = self._first + len(self._kept)
        if lacking > 0 and (self._end is None or end < self._end):
            count = max(lacking, self._ahead)
            more = self._path.fetch(end, count)
            if len(more) < count:
                self._end = end + len(more)
            self._kept, self._first, start = self._kept[start:] + more, self._place, 0
            self._ahead = min(max(2 * self._ahead, _AHEAD), _MOST_AHEAD)
        found = self._kept[start : start + size]
        self._place += len(found)
        return found

    def readinto(self, buffer: Any) -> int:
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def readall(self) -> bytes:
        return self.read()

    def _length(self) -> int:
        if self._end is None:
            self._end = self._path.stat().st_size
        return self._end


# ------------------------------------------------------------------------------------------ stores

_stores: dict[tuple[int, str], Any] = {}
_making = threading.Lock()


def _store(scheme: str) -> Any:
    """The file system of fsspec, one for all threads of a process; ConfigError without its client.

    fsspec would make one for each thread, with connections and lists of its own.
    """
    key = os.getpid(), scheme  # connections do not survive a fork
    with _making:
        if key not in _stores:
            import fsspec  # which nobody needs whose data is local

            try:
                made = fsspec.filesystem(scheme, skip_instance_cache=True, use_listings_cache=False)
            except ImportError as fault:
                extra = _EXTRAS.get(scheme)
                remedy = f"pip install 'esam_jax[{extra}]'" if extra else "install its client"
                text = f"{scheme}:// needs a client that is not installed ({fault})"
                raise ConfigError(f"{text}: {remedy}") from fault
            except Exception as fault:  # some clients look for credentials at once
                raise _translated(StorePath("/", scheme), fault) from fault
            # Some log what they raise, with its traceback.
            logging.getLogger(type(made).__module__.split(".")[0]).setLevel(logging.CRITICAL)
            _stores[key] = made
        return _stores[key]


def _version(info: Any) -> int:
    known = [f"{key} {info[key]}" for key in _VERSION if info.get(key)]
    digest = hashlib.sha256("\n".join(known).encode()).digest()
    return int.from_bytes(digest[:7], "big") if known else 0


def _translated(path: StorePath, fault: Exception, what: str = "read") -> Exception:
    """The same as an error that `files.read` knows, with the errno of a disk, or one of ours."""
    if isinstance(fault, EsamError):
        return fault
    if isinstance(fault, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "no such object, folder or bucket", str(path))
    names = {each.__name__ for each in type(fault).__mro__}
    stated = str(getattr(fault, "code", None) or getattr(fault, "status", None))
    code = int(stated) if stated.isdecimal() else 0
    words = " ".join(str(fault).split())[:200] or type(fault).__name__
    passing = names & _PASSING or code in (408, 429) or code >= 500
    passing = passing or getattr(fault, "errno", None) == errno.EBUSY  # too many calls
    if passing or getattr(fault, "retryable", False):
        return TimeoutError(errno.ETIMEDOUT, words, str(path))
    forbidden = isinstance(fault, PermissionError) or words.startswith("Forbidden")
    if forbidden or names & _DENIED or code in (401, 403):
        return MissingError(f"{path} cannot be {what} (access denied: {words}): {_LOG_IN}")
    if isinstance(fault, OSError) and fault.errno:
        return fault
    return OSError(None, words, str(path))
