"""What is checked of a tar archive from outside, and of each of its entries, before it is used."""

import tarfile
import unicodedata
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from esam_jax.errors import DataError
from esam_jax.places import Place

_MAX_HEADER_BYTES = 2**16  # of a name with what belongs to it; the longest path has 2**12
_MAX_PADDING_BLOCKS = 2**17  # of zeros after the end; `tar` itself fills up to 20
_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class Member(tarfile.TarInfo):
    """An entry of an archive; DataError for a size that would fill the memory or never end.

    `tarfile` reads long names at once, whatever their size, and in older Pythons loops for ever on
    a negative one (CVE-2025-8194). It calls this method for every size.
    """

    def _block(self, count: int) -> int:
        if count < 0 or (self.type in _HEADERS and count > _MAX_HEADER_BYTES):
            raise DataError(f"the archive has a header of {count} bytes: create it again")
        return super()._block(count)  # pyright: ignore[reportAttributeAccessIssue]


def each(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """All entries of an archive that was opened with `Member`, none of which is kept.

    Whatever is wrong with the archive is any exception: `unusable` makes a DataError of it.
    """
    table: Any = archive
    while (member := archive.next()) is not None:
        table.members = []  # else the archive holds every entry that it has read
        yield member
    _require_end(archive)


def is_hidden(name: PurePosixPath) -> bool:
    """As in a folder: what archives of macOS hold beside each file, for example."""
    return any(part.startswith(".") and part != ".." for part in name.parts)


def reason_to_skip(member: tarfile.TarInfo) -> str | None:
    """Why an entry is not read: a file needs no link, no device and no way out of a folder."""
    if member.issym() or member.islnk():
        return "links"
    if not member.isfile() or member.issparse():
        return "special files"
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or not name.parts:
        return "names that lead out of the archive"
    return None if can_be_shown(member.name) else "names that cannot be shown"


def can_be_shown(name: str) -> bool:
    """Whether a name has neither bytes that are not UTF-8 ("Cs") nor what terminals obey ("Cc")."""
    if name.isascii() and name.isprintable():  # as nearly all are
        return True
    return not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)


def unusable(where: Place | str, error: Exception) -> DataError:
    """The error of an archive: `where` it is, and what is wrong with it."""
    if isinstance(error, DataError):
        return DataError(f"{where}: {error}")
    return DataError(f"{where} is not an intact tar archive ({error}): fetch it again")


def _require_end(archive: tarfile.TarFile) -> None:
    """DataError unless the archive ends as it should, with the file.

    `tarfile` stops at a bad header silently, and at the end of the first of several archives.
    """
    file: Any = archive.fileobj
    file.seek(archive.offset)
    block = file.read(tarfile.BLOCKSIZE)
    if block != bytes(tarfile.BLOCKSIZE):
        raise DataError("the archive is cut short: fetch it again")
    for _ in range(_MAX_PADDING_BLOCKS):
        block = file.read(tarfile.BLOCKSIZE)
        if block.strip(b"\0"):
            break
        if not block:
            return
    try:
        tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
    except tarfile.TarError:
        return  # what a tape or a disk had there before: `tar` does not read it either
    raise DataError(
        "another archive follows its end, as `cat a.tar b.tar` writes it: unpack it with "
        "`tar -xi`, and pack it again"
    )
