"""Where the files of a tar archive lie in it: read in one pass, kept in 20 bytes a file.

A name is held as what comes before its last number, that number, and what follows it, so that the
numbered names of large data sets share their strings. `TAR.index` holds the same: 8 bytes that say
what it is, a SHA-256 of the rest, the length of a JSON object and the object (size and time of the
archive, strings, what was left out), then the rows of `ROW`, in the order of the archive.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import re
import stat
import struct
import tarfile
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Integer

from esam_jax import files, places
from esam_jax.data import tar_members
from esam_jax.errors import DataError, MissingError
from esam_jax.places import Place

SUFFIX = ".index"
BLOCK = tarfile.BLOCKSIZE
NO_NUMBER = 2**32 - 1  # of names without any digit
ROW = np.dtype(
    [("head", "<u4"), ("number", "<u4"), ("tail", "<u4"), ("block", "<u4"), ("size", "<u4")]
)
_PACKED = struct.Struct("<5I")  # the same

_MAGIC = b"esamtar\x01"  # the last byte is the version of the format
_DIGEST_BYTES = 32
_START_BYTES = len(_MAGIC) + _DIGEST_BYTES + 8
_MAX_BYTES = 2**41  # of an archive: blocks are counted in 32 bits
_MAX_SIZE = 2**32 - 1  # of a file in it
_ROOM = 2**20  # of an index, beside its names and rows, which the archive has larger
_UNSOUND = ValueError, KeyError, TypeError, AttributeError, OverflowError  # int(inf) is the last
_BACKWARDS = re.compile(r"([^0-9]*)([0-9]{0,9})")
_COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
}


@dataclasses.dataclass(frozen=True)
class Stamp:
    """By which an archive that was replaced is noticed: its bytes, and when it was written."""

    size: int
    mtime_ns: int


@dataclasses.dataclass(frozen=True, eq=False)
class Index:
    """The plain files of one archive: rows of `ROW`, whose names are made of `strings`.

    `left_out` counts entries that are not read, by reason. Offsets are `block` * 512.
    """

    stamp: Stamp
    strings: tuple[str, ...]
    rows: np.ndarray
    left_out: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, row: int) -> str:
        """Relative to the archive, with "/"."""
        head, number, tail, _, _ = self.rows[row].tolist()
        return joined(self.strings[head], number, self.strings[tail])

    def endings(self) -> tuple[Integer[np.ndarray, " X"], tuple[str, ...]]:
        """For each file the place of its ending, such as ".jpg", in the second."""
        known: dict[str, int] = {}
        # Nearly all tails have it; what has none there may have it in what comes before.
        of_tail = np.full(len(self.strings), -1)
        for tail in np.unique(self.rows["tail"]).tolist():
            text = self.strings[tail]
            if "." in text or "/" in text:
                suffix = PurePosixPath(f"x{text}").suffix
                of_tail[tail] = known.setdefault(suffix, len(known))
        found = of_tail[self.rows["tail"]]
        for row in np.flatnonzero(found < 0).tolist():
            suffix = PurePosixPath(self.name(row)).suffix
            found[row] = known.setdefault(suffix, len(known))
        return found, tuple(known)


def split(name: str) -> tuple[str, int, str]:
    """What comes before the last number of a name, that number, and what follows it.

    At most nine digits without leading zeros, so that `joined` gives the name again.
    """
    backwards = _BACKWARDS.match(name[::-1])
    assert backwards is not None  # it matches anything
    tail, found = backwards[1][::-1], backwards[2][::-1]
    if not found:
        return name, NO_NUMBER, ""
    digits = found.lstrip("0") or "0"
    return name[: len(name) - len(tail) - len(digits)], int(digits), tail


def joined(head: str, number: int, tail: str) -> str:
    """The name of which `split` made these."""
    return f"{head}{tail}" if number == NO_NUMBER else f"{head}{number}{tail}"


# ---------------------------------------------------------------------------------------- building


def stamp_of(path: Place) -> Stamp:
    """MissingError where there is no such file; DataError for what is none."""
    try:
        found = files.read(path, path.stat, "check the path")
    except MissingError as error:
        raise MissingError(f"{error}: name a tar archive") from error
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path} is not a regular file: name a tar archive")
    return Stamp(found.st_size, found.st_mtime_ns)


def build(path: Place) -> Index:
    """The index of an archive, by one pass over its headers.

    A member NAME.tar that is an archive itself counts as the folder NAME with what it holds. No
    name is used as a path. DataError for an archive, or one in it, that is compressed, damaged or
    cut short.
    """
    stamp = stamp_of(path)
    if stamp.size > _MAX_BYTES:
        raise DataError(f"{path} is larger than {_MAX_BYTES} bytes: split it")

    def attempt() -> Index:
        rows = _Rows(stamp)
        with path.open("rb") as file:
            _require_plain(path, file)
            try:
                with _opened(file) as archive:
                    rows.add(archive, "", 0)
            except OSError:  # of the disk
                raise
            except Exception as error:
                raise tar_members.unusable(path, error) from error
        if stamp_of(path) != stamp:
            raise DataError(f"{path} is being written: start again when it is complete")
        return rows.index()

    return files.read(path, attempt, "check the path")


def first_names(path: Place, most: int) -> tuple[str, ...]:
    """The names of the first files of an archive, to recognise it by; () for what is no archive."""
    found: list[str] = []
    with contextlib.suppress(Exception), path.open("rb") as file, _opened(file) as archive:
        for member in tar_members.each(archive):
            if member.isfile() and not tar_members.is_hidden(PurePosixPath(member.name)):
                found.append(str(PurePosixPath(member.name)))
            if len(found) == most:
                break
    return tuple(found)


def _opened(file: Any) -> tarfile.TarFile:
    return tarfile.open(fileobj=file, mode="r:", tarinfo=tar_members.Member)


def _require_plain(where: Place | str, file: Any) -> None:
    """DataError for a compressed archive: there is no reading from its middle."""
    head = file.read(BLOCK)
    file.seek(0)
    for magic, remedy in _COMPRESSED.items():
        if head.startswith(magic):
            raise DataError(f"{where} is compressed, and can only be read in order: {remedy} it")


class _Rows:
    """Collects the rows of an index."""

    def __init__(self, stamp: Stamp) -> None:
        self._stamp = stamp
        self._rows = bytearray()
        self._strings = {"": 0}
        self._left_out: collections.Counter[str] = collections.Counter()

    def add(self, archive: tarfile.TarFile, folder: str, start: int) -> None:
        """All that an archive holds, which begins at `start` of the file and counts as `folder`."""
        for member in tar_members.each(archive):
            name = PurePosixPath(member.name)
            if member.isdir() or tar_members.is_hidden(name):
                continue
            reason = tar_members.reason_to_skip(member)
            offset = start + member.offset_data
            if reason is None and offset + member.size > self._stamp.size:
                raise DataError("the archive is cut short: fetch it again")
            if reason is None and not folder and name.suffix == ".tar":
                self._add_inner(archive, member, str(name.with_suffix("")), offset)
            elif reason is None and member.size > _MAX_SIZE:
                self._left_out[f"files above {_MAX_SIZE} bytes"] += 1
            elif reason is None:
                self._add_file(f"{folder}/{name}" if folder else str(name), offset, member.size)
            else:
                self._left_out[reason] += 1

    def _add_inner(
        self, archive: tarfile.TarFile, member: tarfile.TarInfo, folder: str, offset: int
    ) -> None:
        file = archive.extractfile(member)
        try:
            _require_plain(f"its member {member.name}", file)
            with _opened(file) as inner:
                self.add(inner, folder, offset)
        except (tarfile.TarError, DataError) as error:
            raise tar_members.unusable(f"its member {member.name}", error) from error

    def _add_file(self, name: str, offset: int, size: int) -> None:
        head, number, tail = split(name)
        places = self._string(head), number, self._string(tail)
        self._rows += _PACKED.pack(*places, offset // BLOCK, size)

    def _string(self, text: str) -> int:
        return self._strings.setdefault(text, len(self._strings))

    def index(self) -> Index:
        """Of several files of one name the last counts, as when they are unpacked."""
        rows = np.frombuffer(bytes(self._rows), ROW)
        last = _last_of_each(rows)
        if older := len(rows) - len(last):
            self._left_out["older files of the same name"] = older
        return Index(self._stamp, tuple(self._strings), rows[last], dict(self._left_out))


def _last_of_each(rows: np.ndarray) -> np.ndarray:
    """The places of rows without a later one of their name, in order."""
    order = np.lexsort((np.arange(len(rows)), rows["tail"], rows["number"], rows["head"]))
    ordered = rows[order]
    is_last = np.ones(len(rows), bool)
    same = np.ones(max(len(rows) - 1, 0), bool)
    for part in ("head", "number", "tail"):
        same &= ordered[part][1:] == ordered[part][:-1]
    is_last[:-1] = ~same
    return np.sort(order[is_last])


# ------------------------------------------------------------------------------------ as a file


def write(index: Index, path: Place) -> None:
    """Stores an index atomically; MissingError where it cannot be written."""
    about = {
        "size": index.stamp.size,
        "mtime_ns": index.stamp.mtime_ns,
        "files": len(index.rows),
        "left_out": dict(index.left_out),
        "strings": index.strings,
    }
    text = json.dumps(about, ensure_ascii=False).encode()
    rest = len(text).to_bytes(8, "little") + text + index.rows.tobytes()
    content = _MAGIC + hashlib.sha256(rest).digest() + rest
    places.write(path, content, remedy="name another folder for it")


def may_replace(path: Place) -> bool:
    """Whether nothing is lost where an index is written: no file is there, an empty one, or one."""
    if not path.is_file():
        return not path.exists()
    with path.open("rb") as file:
        return file.read(len(_MAGIC) - 1) in (b"", _MAGIC[:-1])


def read(path: Place, stamp: Stamp) -> Index:
    """The index in a file; DataError unless it is complete, as written, and of that archive."""

    def attempt() -> bytes:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"{path} is not a regular file")
        if found.st_size > stamp.size + _ROOM:
            raise DataError(f"{path} is larger than its archive")
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
            if start != _MAGIC:
                raise DataError(f"{path} is no index of this version")
            return start + file.read(found.st_size)

    content = files.read(path, attempt, "check the path")
    try:
        index = _parsed(content)
    except (*_UNSOUND, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error})") from error
    if index.stamp != stamp:
        raise DataError(f"{path} is of another version of its archive")
    return index


def _parsed(content: bytes) -> Index:
    """Errors of `_UNSOUND` for anything that is no sound index."""
    digest = content[len(_MAGIC) : len(_MAGIC) + _DIGEST_BYTES]
    rest = memoryview(content)[len(_MAGIC) + _DIGEST_BYTES :]
    if hashlib.sha256(rest).digest() != digest:
        raise ValueError("its checksum is another one")
    end = _START_BYTES + int.from_bytes(rest[:8], "little")
    about = json.loads(content[_START_BYTES:end])
    rows = np.frombuffer(content[end:], ROW)
    strings, left_out = tuple(about["strings"]), dict(about["left_out"])
    stamp = Stamp(int(about["size"]), int(about["mtime_ns"]))
    if len(rows) != about["files"] or not all(type(x) is str for x in strings):
        raise ValueError("it has not the files that it states")
    if not all(map(tar_members.can_be_shown, strings)):
        raise ValueError("it has names that cannot be shown")
    if not all(type(x) is str and type(count) is int for x, count in left_out.items()):
        raise ValueError("it counts what is left out in another way")
    if len(rows) and max(rows["head"].max(), rows["tail"].max()) >= len(strings):
        raise ValueError("it has names without a string")
    if len(rows) and (rows["block"].astype(np.int64) * BLOCK + rows["size"]).max() > stamp.size:
        raise ValueError("it has files that end after the archive")
    return Index(stamp, strings, rows, left_out)
