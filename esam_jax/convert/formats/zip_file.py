"""Zip archives whose directory is bounded and leaves nothing to interpretation.

Two readers of one archive may see different files: by a second directory, a name that stands twice
or members that overlap. Such archives are refused, so that what is checked is what is read.
"""

import contextlib
import os
import struct
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

from esam_jax.convert.formats import bounds
from esam_jax.errors import CheckpointError, EsamError

# 100,000 members and more. Each becomes some ten times as large in Python.
_MOST_DIRECTORY_BYTES = 8_000_000
_END, _LOCATOR, _END64 = b"PK\5\6", b"PK\6\7", b"PK\6\6"


@contextlib.contextmanager
def opened(file: BinaryIO, where: str) -> Iterator[zipfile.ZipFile]:
    """The archive in a file, after checks of every member; CheckpointError for all that fails.

    It also covers what the caller reads from the archive.
    """
    try:
        start = _directory_start(file, where)
        with zipfile.ZipFile(file) as archive:
            if archive.start_dir != start:
                raise CheckpointError(f"{where} has two zip directories; save it again")
            _check_members(file, archive, where)
            yield archive
    except (EsamError, OSError):
        raise
    except Exception as error:  # zipfile raises half a dozen kinds for a damaged archive
        raise CheckpointError(
            f"{where} is not a complete zip archive ({bounds.reason(error)}); copy it again"
        ) from error


def _directory_start(file: BinaryIO, where: str) -> int:
    """Where the directory starts, from the last bytes alone, before a byte of it is read."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 42, 0))
    tail = file.read(42)
    end = tail[-22:]
    if len(end) < 22 or end[:4] != _END or end[20:] != b"\0\0":
        raise CheckpointError(f"{where} does not end as a zip archive must; copy it again")
    length, start = struct.unpack("<II", end[12:20])
    stop = size - 22
    if len(tail) == 42 and tail[:4] == _LOCATOR:
        (at,) = struct.unpack("<Q", tail[8:16])
        if at != size - 98:
            raise CheckpointError(f"{where} has an unexpected zip64 directory; save it again")
        file.seek(at)
        record = file.read(56)
        if record[:4] != _END64:
            raise CheckpointError(f"{where} has an unexpected zip64 directory; save it again")
        length, start = struct.unpack("<QQ", record[40:56])
        stop = at
    if length > _MOST_DIRECTORY_BYTES or start + length != stop:
        raise CheckpointError(
            f"{where} has a zip directory of {length} bytes at {start}; it must end at {stop} and "
            f"have at most {_MOST_DIRECTORY_BYTES}; copy it again"
        )
    return start


def first_byte(file: BinaryIO, info: zipfile.ZipInfo, where: str) -> int:
    """Where the data of a member starts in the file, behind its header there."""
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\3\4":
        member = f"{where}: member {bounds.shown(info.filename)}"
        raise CheckpointError(f"{member} is damaged or overlaps another; copy it again")
    return info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))


def _check_members(file: BinaryIO, archive: zipfile.ZipFile, where: str) -> None:
    members = sorted(archive.infolist(), key=lambda info: info.header_offset)
    # PyTorch finds members without regard to case.
    if len({info.filename.lower() for info in members}) < len(members):
        raise CheckpointError(f"{where} names a member more than once; save it again")
    reached = 0
    for info in members:
        at = f"{where}: member {bounds.shown(info.filename)}"
        parts = info.orig_filename.replace("\\", "/").split("/")
        if info.orig_filename != info.filename or parts[0] == "" or ".." in parts:
            raise CheckpointError(f"{at} is named like a file elsewhere; save it again")
        if info.flag_bits & 1:
            raise CheckpointError(f"{at} is encrypted; save it without a password")
        first = first_byte(file, info, where)
        if info.header_offset < reached:
            raise CheckpointError(f"{at} is damaged or overlaps another; copy it again")
        reached = first + info.compress_size
        if reached > archive.start_dir:
            raise CheckpointError(f"{at} reaches beyond the file; copy it again")
