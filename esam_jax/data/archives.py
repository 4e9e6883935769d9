"""Pictures without annotations, in a fixed order: a file, a folder at any depth, a tar archive."""

import collections
import dataclasses
import tarfile
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from esam_jax.data import decode, pictures, tar_members
from esam_jax.errors import DataError, MissingError

_MAX_MEMBERS = 2**20  # an archive's table of contents lies in memory


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


def _opened(path: Path) -> tarfile.TarFile | None:
    """The archive, or None where the file is not one."""
    try:
        return tarfile.open(path, tarinfo=tar_members.Member)
    except tarfile.ReadError:
        return None
    except OSError as error:
        raise MissingError(f"{path} cannot be read ({error.strerror}): check the path") from error
    except Exception as error:  # each way of compression has errors of its own
        raise tar_members.unusable(path, error) from error


def _archive(path: Path, archive: tarfile.TarFile) -> Album:
    """Nothing is unpacked, and no name is used as a path."""
    try:
        members, left_out = _listed(archive)
    except Exception as error:
        archive.close()
        raise tar_members.unusable(path, error) from error

    lock = threading.Lock()  # all members are read by one file, which has one position

    def read(name: str) -> bytes:
        try:
            with lock:
                file = archive.extractfile(members[name])
                return b"" if file is None else decode.read_bytes(file.read)
        except DataError:
            raise
        except Exception as error:
            raise tar_members.unusable(path, error) from error

    weakref.finalize(read, archive.close)
    pictures.warn_of(path, left_out)
    # In the order of the file: a compressed archive can only go back by unpacking from its start.
    names = sorted(members, key=lambda name: members[name].offset)
    return Album(tuple(names), read, left_out)


def _listed(archive: tarfile.TarFile) -> tuple[dict[str, tarfile.TarInfo], Mapping[str, int]]:
    """Plain files with a picture's ending by name, and how many are left out, by reason."""
    members: dict[str, tarfile.TarInfo] = {}
    left_out: collections.Counter[str] = collections.Counter()
    for count, member in enumerate(tar_members.each(archive)):
        if count == _MAX_MEMBERS:
            raise DataError(f"the archive has more than {_MAX_MEMBERS} entries: split it")
        name = PurePosixPath(member.name)
        if member.isdir() or tar_members.is_hidden(name):
            continue
        reason = pictures.other_ending(name) or tar_members.reason_to_skip(member)
        if reason is None:
            if str(name) in members:
                left_out["older files of the same name"] += 1
            members[str(name)] = member
        else:
            left_out[reason] += 1
    if not members:
        raise DataError(pictures.none_of("the archive", left_out))
    return members, left_out
