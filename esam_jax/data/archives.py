"""Pictures without annotations, in a fixed order: a file, a folder at any depth, a tar archive."""

import collections
import dataclasses
import tarfile
import threading
import unicodedata
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from esam_jax.data import decode, pictures
from esam_jax.errors import DataError, MissingError

_MAX_HEADER_BYTES = 2**16  # of a name with what belongs to it; the longest path has 2**12
_MAX_MEMBERS = 2**20  # an archive's table of contents lies in memory
_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


@dataclasses.dataclass(frozen=True)
class Album:
    """Names of pictures, relative to where they lie; `read(name)` gives the bytes of one.

    `read` may be called from many threads. It raises DataError for a file whose first bytes are not
    those of a picture, or that cannot be unpacked.
    `left_out` counts other files by their ending, and members of an archive with a picture's ending
    that are not read, by reason.
    """

    names: tuple[str, ...]
    read: Callable[[str], bytes]
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)


def is_album(path: Path) -> bool:
    """Whether `open_album` reads it as a folder or an archive."""
    if not path.is_file():
        return path.is_dir()
    archive = _opened(path)
    if archive is not None:
        archive.close()
    return archive is not None


def open_album(path: Path) -> Album:
    """MissingError or DataError unless there is at least one picture; none is decoded yet.

    A UserWarning counts what is left out of a folder or an archive.
    """
    if path.is_dir():
        found = pictures.list_pictures(path)
        if not found.names:
            raise DataError(pictures.none_of(path, found.left_out))
        pictures.warn_of(path, found.left_out)
        return Album(found.names, lambda name: decode.read_file(path / name), found.left_out)
    if not path.exists():
        raise MissingError(f"{path} does not exist: name a picture, a folder or a tar archive")
    if not path.is_file():
        raise DataError(f"{path} is not a regular file: name a picture, a folder or a tar archive")
    archive = _opened(path)
    if archive is None:
        return Album((path.name,), lambda name: decode.read_file(path))
    return _archive(path, archive)


class _Member(tarfile.TarInfo):
    """An entry of an archive; DataError for a size that would fill the memory or never end.

    `tarfile` reads long names at once, whatever their size, and in older Pythons loops for ever on
    a negative one (CVE-2025-8194). It calls this method for every size.
    """

    def _block(self, count: int) -> int:
        if count < 0 or (self.type in _HEADERS and count > _MAX_HEADER_BYTES):
            raise DataError(f"the archive has a header of {count} bytes: create it again")
        return super()._block(count)  # pyright: ignore[reportAttributeAccessIssue]


def _opened(path: Path) -> tarfile.TarFile | None:
    """The archive, or None where the file is not one."""
    try:
        return tarfile.open(path, tarinfo=_Member)
    except tarfile.ReadError:
        return None
    except OSError as error:
        raise MissingError(f"{path} cannot be read ({error.strerror}): check the path") from error
    except Exception as error:  # each way of compression has errors of its own
        raise _unusable(path, error) from error


def _archive(path: Path, archive: tarfile.TarFile) -> Album:
    """Nothing is unpacked, and no name is used as a path."""
    try:
        members, left_out = _listed(archive)
    except Exception as error:
        archive.close()
        raise _unusable(path, error) from error

    lock = threading.Lock()  # all members are read by one file, which has one position

    def read(name: str) -> bytes:
        try:
            with lock:
                file = archive.extractfile(members[name])
                return b"" if file is None else decode.read_bytes(file.read)
        except DataError:
            raise
        except Exception as error:
            raise _unusable(path, error) from error

    weakref.finalize(read, archive.close)
    pictures.warn_of(path, left_out)
    # In the order of the file: a compressed archive can only go back by unpacking from its start.
    names = sorted(members, key=lambda name: members[name].offset)
    return Album(tuple(names), read, left_out)


def _listed(archive: tarfile.TarFile) -> tuple[dict[str, tarfile.TarInfo], Mapping[str, int]]:
    """Plain files with a picture's ending by name, and how many are left out, by reason."""
    members: dict[str, tarfile.TarInfo] = {}
    left_out: collections.Counter[str] = collections.Counter()
    for count, member in enumerate(archive):
        if count == _MAX_MEMBERS:
            raise DataError(f"the archive has more than {_MAX_MEMBERS} entries: split it")
        name = PurePosixPath(member.name)
        if member.isdir() or _is_hidden(name):
            continue
        reason = pictures.other_ending(name) or _reason_to_skip(member)
        if reason is None:
            if str(name) in members:
                left_out["older files of the same name"] += 1
            members[str(name)] = member
        else:
            left_out[reason] += 1
    _require_end(archive)
    if not members:
        raise DataError(pictures.none_of("the archive", left_out))
    return members, left_out


def _is_hidden(name: PurePosixPath) -> bool:
    """As in a folder: what archives of macOS hold beside each file, for example."""
    return any(part.startswith(".") and part != ".." for part in name.parts)


def _reason_to_skip(member: tarfile.TarInfo) -> str | None:
    """Why an entry is not read: a picture needs no link, no device and no way out of a folder."""
    name = PurePosixPath(member.name)
    if member.issym() or member.islnk():
        return "links"
    if not member.isfile() or member.issparse():
        return "special files"
    if name.is_absolute() or ".." in name.parts:
        return "names that lead out of the archive"
    # "Cs" stands for bytes that are not UTF-8, "Cc" for what a terminal would obey.
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in member.name):
        return "names that cannot be shown"
    return None


def _require_end(archive: tarfile.TarFile) -> None:
    """DataError unless the archive ends as it should: `tarfile` stops at a bad header silently."""
    file: Any = archive.fileobj
    file.seek(archive.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise DataError("the archive is cut short: fetch it again")


def _unusable(path: Path, error: Exception) -> DataError:
    if isinstance(error, DataError):
        return DataError(f"{path}: {error}")
    return DataError(f"{path} is not an intact tar archive ({error}): fetch it again")
