"""Files as the package reads and writes them: reads are retried, writes are atomic.

A file is written under a temporary name beside its target, then renamed: no reader ever sees half
of it. The temporary name holds the host and the process, so that what a killed process left behind
can be distinguished from what a live one is writing (`remove_unfinished`).
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Literal, NoReturn, Protocol, TypeVar, runtime_checkable

from esam_jax.errors import ConfigError, DiskError, EsamError, MissingError

Content = TypeVar("Content")


@runtime_checkable  # for the shape checks in the tests
class Readable(Protocol):
    """A file that is read: a `pathlib.Path`, or one in a store (`places.py`)."""

    def stat(self) -> Any: ...

    def open(self, mode: Literal["rb"]) -> Any: ...


HOST = re.sub(r"\W", "_", platform.node())

_PAUSES = (0.2, 1.0, 3.0)  # seconds before each further attempt
_TRANSIENT = {  # also recognised in the messages of libraries that read on their own
    errno.EIO,
    errno.ESTALE,  # the file was replaced, or the server restarted
    errno.EAGAIN,
    errno.ETIMEDOUT,
    errno.ECONNRESET,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
}
_TEMPORARY = re.compile(r"\..+\.(\w*)-(\d+)\.new")  # as `_temporary` names them
_FULL = (errno.ENOSPC, errno.EDQUOT)
_OF_THE_USER = {  # faults that only the user can fix, and how
    errno.EACCES: "allow this user to open it and the folders above it, or name another path",
    errno.EPERM: "allow this user to change it, or name another path",
    errno.EROFS: "name a path where this user may write",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.ELOOP: "remove the link that leads back to itself, or name another path",
    errno.ENOTDIR: "a part of the path is a file: name another path",
    errno.EISDIR: "name a file, not a folder",
}
# A scheme of two letters or more, as RFC 3986 spells it: a path keeps one of its two slashes.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_NO_STORES = ("http", "https", "ftp", "file", "local")  # without folders, or no store
_NAME_CHARACTERS = 40  # of the target in a temporary name, which may have 255 bytes in all
_ABANDONED_SECONDS = 86_400  # age at which a temporary file of another host counts as left behind


def is_address(name: str | PurePath) -> bool:
    """Whether it names a bucket or a URL: "gs://b/run", also as a path, which is "gs:/b/run"."""
    return _ADDRESS.match(str(name)) is not None


def require_local(name: str | Path, what: str = "", *, rule: str | None = None) -> None:
    """ConfigError for a bucket or a URL: everything that is read or written is a local file.

    As a path, "gs://b/run" would be a folder "gs:" below the current one. `what` is the option or
    variable that holds the name, `rule` what applies to it (default: `LOCAL_ONLY`).
    """
    if is_address(name):
        held = f"{what} is {str(name)!r}" if what else f"{str(name)!r} is an address"
        raise ConfigError(f"{held}, but {rule or LOCAL_ONLY}")


def is_store(name: str) -> bool:
    """Whether it names a place in an object store, whose client may still be missing."""
    scheme = name.partition(":")[0].lower()
    if not is_address(name) or scheme in _NO_STORES:
        return False
    import fsspec  # which nobody needs whose files are local

    return scheme in {*fsspec.available_protocols(), *fsspec.registry}


LOCAL_ONLY = (
    "files and folders must be on this machine, and only data sets are read from buckets: mount "
    "the bucket (gcsfuse for gs://, mount-s3 for s3://), or copy to a local folder and back "
    "(gcloud storage rsync, aws s3 sync, curl)"
)
# Of data sets, except those whose format is read by a library that opens local files alone.
READABLE = (
    "data is read from this machine or an object store that fsspec knows (gs://, s3://, az://): "
    "copy it to one of them (curl), or leave file:// out"
)
LOCAL_RECORDS = (
    "files of ArrayRecord are read from a disk: copy them to a local folder (gcloud storage cp -r, "
    "aws s3 sync), or mount the bucket (gcsfuse for gs://, mount-s3 for s3://)"
)
# Of a run: its checkpoints are renamed and its log is appended to, which mounted buckets may lack.
LOCAL_RUN = (
    "a run is written to a local disk or a shared file system (NFS, Lustre, Filestore), never to a "
    "bucket or URL, nor to a bucket that is mounted: name a folder there, and copy it (gcloud "
    "storage rsync -r, aws s3 sync)"
)


def user_cache() -> Path:
    """Where downloads and compiled programs are kept: $ESAM_CACHE, or esam_jax in ~/.cache."""
    named = os.environ.get("ESAM_CACHE")
    if named:
        require_local(named, "ESAM_CACHE")
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "esam_jax"


# ------------------------------------------------------------------------------------- reading


def read(path: str | PurePath, attempt: Callable[[], Content], remedy: str) -> Content:
    """The result of `attempt`, which opens the file at `path`; a transient error is retried.

    MissingError with the remedy for a file that does not exist or may not be read; DiskError when
    the error persists for some seconds.
    """
    for pause in (*_PAUSES, None):
        try:
            return attempt()
        except EsamError:
            raise
        except (OSError, ValueError) as fault:  # ValueError for a name that no file can have
            if isinstance(fault, ValueError) or pause is None or not is_transient(fault):
                raise read_error(path, fault, remedy) from fault
        time.sleep(pause)
    raise AssertionError


def read_json(
    path: Readable, *, max_bytes: int, error: type[EsamError], finite: bool = True
) -> dict[str, Any]:
    """The object in a JSON file from outside; `error` for anything else, or too many bytes.

    `finite` also refuses NaN and Infinity, which JSON does not have but Python writes.
    """

    def attempt() -> bytes:
        size = path.stat().st_size
        if size > max_bytes:
            raise error(f"{path} has {size} bytes, but at most {max_bytes} are read")
        with path.open("rb") as file:
            return file.read(size)

    content = read(str(path), attempt, "check the path")
    return json_object(content, str(path), error=error, finite=finite)


def json_object(
    content: bytes, name: str, *, error: type[EsamError], finite: bool = True
) -> dict[str, Any]:
    """`read_json` for the content of a file, which `name` is for people."""
    try:
        value = json.loads(content, parse_constant=_refuse_constant if finite else None)
    except (ValueError, RecursionError) as fault:
        raise error(f"{name} is not valid JSON ({fault})") from fault
    if not isinstance(value, dict):
        raise error(f"{name} holds a {type(value).__name__}, but must hold an object")
    return value


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")


def is_transient(fault: BaseException) -> bool:
    """Whether the next attempt may succeed."""
    if isinstance(fault, OSError):
        return fault.errno in _TRANSIENT
    return any(os.strerror(code) in str(fault) for code in _TRANSIENT)


def is_full(fault: BaseException | str) -> bool:
    """Whether the disk, or the user's part of it, is full; also in the words of libraries."""
    if isinstance(fault, OSError) and fault.errno in _FULL:
        return True
    return any(os.strerror(code) in str(fault) for code in _FULL)


def read_error(path: str | PurePath, fault: BaseException, remedy: str) -> DiskError | MissingError:
    """The package's error for one of the operating system."""
    text = f"{path} cannot be read ({getattr(fault, 'strerror', None) or fault})"
    if is_transient(fault):
        return DiskError(f"{text}: a transient I/O error; start again")
    return MissingError(f"{text}: {remedy}")


def refusal(fault: BaseException) -> MissingError | None:
    """The package's error for a fault of a file, as the system reports it, that the user can fix.

    None for any other, such as a permission that concerns no file.
    """
    if isinstance(fault, RuntimeError) and str(fault).startswith("Symlink loop"):
        fault = fault.__context__ or fault  # as Path.resolve reports it before Python 3.13
    if not isinstance(fault, OSError) or not isinstance(fault.filename, str | bytes | os.PathLike):
        return None
    remedy = _OF_THE_USER.get(fault.errno or 0)
    if remedy is None or isinstance(fault, EsamError):
        return None
    path = os.fsdecode(fault.filename)
    return MissingError(f"{path} cannot be used ({fault.strerror}): {remedy}")


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Faults of files that only the user can fix leave the block or function as MissingError."""
    try:
        yield
    except (OSError, RuntimeError) as fault:
        if (error := refusal(fault)) is None:
            raise
        raise error from fault


# ------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def replacing(
    path: Path, *, remedy: str | None = None, durable: bool = False
) -> Iterator[BinaryIO]:
    """A new file, which takes the place of `path` when the block ends without an error.

    It has the mode of any new file; `durable` waits until it is on the disk. An OSError becomes a
    MissingError with the remedy, or is left as it is without one.
    """
    fresh = _temporary(path)
    try:
        with fresh.open("xb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as fault:
        raise _write_error(path, fault, remedy) from fault.__cause__ or fault
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_by_path(path: Path, *, remedy: str | None = None) -> Iterator[Path]:
    """As `replacing`, for what opens its file on its own: the path of the new file.

    It is on the disk before it takes the place of `path`. A library that reports a full disk in
    words alone counts as an OSError.
    """
    fresh = _temporary(path)
    try:
        yield fresh
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.replace(path)
    except RuntimeError as fault:
        if not is_full(fault):
            raise
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        raise _write_error(path, error, remedy) from fault
    except OSError as fault:
        raise _write_error(path, fault, remedy) from fault.__cause__ or fault
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)


def write(path: Path, content: str | bytes, *, remedy: str | None = None) -> None:
    """Writes the file atomically; text as UTF-8. Errors as for `replacing`."""
    with replacing(path, remedy=remedy) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing_folder(folder: Path, *, remedy: str) -> Iterator[Path]:
    """A new folder, which takes the place of `folder` when the block ends without an error.

    The old one is there until the new one is: both are exchanged in one step where the system can.
    Whether it may be replaced is for `outputs.require_new_folder` to say. MissingError with the
    remedy when it cannot be written.
    """
    fresh = _temporary(folder)
    try:
        fresh.mkdir(parents=True)
        yield fresh
        _put_in_place(fresh, folder)
    except OSError as fault:
        raise _write_error(folder, fault, remedy) from fault.__cause__ or fault
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Of two programs that do this at once, the second sees what the first has written."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # not every network file system can lock a folder
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Removes temporary files that no process is writing any more.

    A process of this host can be looked up; files of another host go when they are a day old.
    """
    for file in folder.glob(".*.new"):
        parts = _TEMPORARY.fullmatch(file.name)
        if not parts:
            continue
        host, pid = parts[1], int(parts[2])
        try:
            old = time.time() - file.stat().st_mtime > _ABANDONED_SECONDS
            if old or (host == HOST and not _is_running(pid)):
                file.unlink()
        except FileNotFoundError:
            pass  # finished, or removed by another process


def _put_in_place(fresh: Path, folder: Path) -> None:
    """`fresh` under the name of `folder`, whose old content may lie at `fresh` then."""
    if not folder.exists():
        fresh.rename(folder)
    elif not _exchange(fresh, folder):
        # For an instant there is none: a process killed there leaves the old one under this name.
        old = folder.with_name(f"{folder.name[:_NAME_CHARACTERS]}.old-{secrets.token_hex(4)}")
        folder.rename(old)
        try:
            fresh.rename(folder)
        except BaseException:
            old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two paths in one step; False where the system or its disk cannot (renameat2(2))."""
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return swap(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _temporary(path: Path) -> Path:
    name = f".{path.name[:_NAME_CHARACTERS]}.{secrets.token_hex(4)}.{HOST}-{os.getpid()}.new"
    return path.with_name(name)


def _write_error(path: Path, fault: OSError, remedy: str | None) -> OSError:
    if remedy is None:
        return fault
    cause = fault.__cause__ or fault  # a MissingError from within the block names a temporary file
    return MissingError(f"{path} cannot be written ({cause}); {remedy}")


def _is_running(pid: int) -> bool:
    """Whether another process has this number; the calling one has nothing unfinished yet."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return pid != os.getpid()
