"""Tar archives for tests, with members that `tarfile` would not write by itself."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def packed(*members: tuple[str | tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    """An archive of these names or entries and their contents."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for member, content in members:
            member = entry(member) if isinstance(member, str) else member
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def of_folder(folder: Path, tar: Path, *, before: str = "", keep: Callable = bool) -> Path:
    """An archive of the files of a folder, their names after `before`."""
    tar.parent.mkdir(parents=True, exist_ok=True)
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and keep(path)]
    names = [f"{before}{path.relative_to(folder).as_posix()}" for path in found]
    contents = [path.read_bytes() for path in found]
    tar.write_bytes(packed(*zip(names, contents, strict=True)))
    return tar


def with_size(size: bytes) -> Callable[[bytes], bytes]:
    """Another size in the header of the first member, with the checksum that goes with it."""

    def change(archive: bytes) -> bytes:
        header = bytearray(archive[:512])
        header[124:136] = size
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return bytes(header) + archive[512:]

    return change
