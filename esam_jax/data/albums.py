"""Pictures without annotations, in a fixed order: a file, a folder at any depth, a tar archive."""

import dataclasses
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from esam_jax.data import pictures
from esam_jax.data.image_folder import list_pictures
from esam_jax.errors import DataError, MissingError

_MAX_BYTES = 2**29  # of one member of an archive


@dataclasses.dataclass(frozen=True)
class Album:
    """Names of pictures, relative to where they lie; `read(name)` gives the bytes of one."""

    names: tuple[str, ...]
    read: Callable[[str], bytes]


def open_album(path: Path) -> Album:
    """MissingError or DataError unless there is at least one picture; none is decoded yet."""
    if path.is_dir():
        found = tuple(list_pictures(path))
        if not found:
            raise DataError(f"{path} holds no {', '.join(pictures.SUFFIXES)} file at any depth")
        return Album(found, lambda name: _bytes(path / name))
    if not path.exists():
        raise MissingError(f"{path} does not exist: name a picture, a folder or a tar archive")
    if tarfile.is_tarfile(path):
        return _archive(path)
    return Album((path.name,), lambda name: _bytes(path))


def _archive(path: Path) -> Album:
    """Regular files with a picture's ending; nothing is unpacked, and no name is used as a path."""
    try:
        archive = tarfile.open(path)  # noqa: SIM115 - read from for as long as the album lives
        members = {member.name: member for member in archive if member.isfile()}
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{path} is no whole tar archive ({error}): fetch it again") from error
    names = [n for n in members if PurePosixPath(n).suffix.lower() in pictures.SUFFIXES]
    if not names:
        raise DataError(f"{path} holds no {', '.join(pictures.SUFFIXES)} file")

    def read(name: str) -> bytes:
        if members[name].size > _MAX_BYTES:
            raise DataError(f"{name} is larger than {_MAX_BYTES} bytes: make it smaller first")
        file = archive.extractfile(members[name])
        return b"" if file is None else file.read()

    return Album(tuple(sorted(names)), read)


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path} is larger than {_MAX_BYTES} bytes: make it smaller first")
        return path.read_bytes()
    except OSError as error:
        raise MissingError(f"{path} cannot be read ({error.strerror}): check the path") from error
