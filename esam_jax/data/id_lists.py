"""Lists of pictures as text files, one name a line: a subset of a source that any command reads.

A line may be shorter than a name where it stays clear which picture is meant: the name of the file
alone, the same without its ending, or the number at its end (`223750` for `sa_223750.jpg`).
"""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np

from esam_jax import files, places
from esam_jax.data.findings import Finding
from esam_jax.data.parts import Part
from esam_jax.data.records import Source
from esam_jax.errors import ConfigError, DataError
from esam_jax.places import Place

_MAX_BYTES = 2**31
_BREAK = re.compile(r"[\r\n]")
_NUMBER = re.compile(r"0*([0-9]+)")
_LAST_NUMBER = re.compile(r"(?:^|[^0-9])0*([0-9]+)$")


def write(path: Path, names: Iterable[str]) -> None:
    """One name a line; DataError for a name with a line break, before anything is written."""
    text = content(names)
    files.write(path, text)


def content(names: Iterable[str]) -> bytes:
    """The bytes of a list; DataError for a name that is no line."""
    lines = []
    for name in names:
        if _BREAK.search(name) or not name:
            raise DataError(f"{name!r} cannot stand in an id list, one name a line: rename it")
        lines.append(name + "\n")
    # A file's name may hold bytes that are not UTF-8.
    return "".join(lines).encode(errors="surrogateescape")


def read(path: str | Place) -> tuple[str, ...]:
    """The lines of a list, each once; DataError for a file that is none, or has no line."""
    file = places.place(path)

    def attempt() -> bytes:
        size = file.stat().st_size
        if size > _MAX_BYTES:
            raise DataError(f"{path} has {size} bytes, but an id list has at most {_MAX_BYTES}")
        with file.open("rb") as opened:
            return opened.read(size)

    data = files.read(file, attempt, "name a text file with one picture a line")
    if b"\0" in data:
        raise DataError(f"{path} is no text file: an id list has one name a line")
    text = data.decode(errors="surrogateescape").removeprefix("\ufeff")
    lines = tuple(dict.fromkeys(line for line in _BREAK.split(text) if line))
    if not lines:
        raise DataError(f"{path} is empty: an id list has one name a line")
    return lines


def select(source: Source, path: str | Place) -> Part:
    """The records of a source that a list names, in the order of the source.

    What no record has is a finding; DataError where that is every line, ConfigError for a line that
    several records fit.
    """
    lines = read(path)
    chosen = dict.fromkeys(lines, -1)
    for index in range(len(source)):
        name = source.name(index)
        if name in chosen:
            chosen[name] = index
    _by_short_names(source, path, chosen)
    missing = [line for line, index in chosen.items() if index < 0]
    found = np.unique(np.array([index for index in chosen.values() if index >= 0], np.int64))
    if not found.size:
        raise DataError(
            f"none of the {len(lines)} lines of {path} names a picture of this data, such as "
            f"{source.name(0)!r}; the first is {lines[0][:80]!r}: choose the list of this data"
        )
    noted = ()
    if missing:
        more = f" (the first of {len(missing)})" if len(missing) > 1 else ""
        noted = (Finding("ids_not_found", f"{path}: {missing[0][:80]}{more}", len(missing)),)
    digest = hashlib.sha256(found.astype("<i8").tobytes()).hexdigest()[:12]
    return Part(source, found, f"{len(found)} listed ids {digest}", noted)


def _by_short_names(source: Source, path: str | Place, chosen: dict[str, int]) -> None:
    """Fills in the lines that are no complete name."""
    wanted: dict[str, list[str]] = {}
    for line, index in chosen.items():
        if index < 0:
            wanted.setdefault(_number(line), []).append(line)
    if not wanted:
        return
    fits: dict[str, str] = {}  # line -> the record that it is
    for index in range(len(source)):
        name = source.name(index)
        for line in (line for short in _short(name) for line in wanted.get(short, ())):
            if line in fits and fits[line] != name:
                raise ConfigError(
                    f"{path}: {line!r} fits {fits[line]!r} and {name!r}: write the complete name"
                )
            fits[line], chosen[line] = name, index


def _number(line: str) -> str:
    """A line, without the zeros before a number."""
    number = _NUMBER.fullmatch(line)
    return number[1] if number else line


def _short(name: str) -> set[str]:
    """What may stand for a name."""
    path = PurePosixPath(name)
    number = _LAST_NUMBER.search(path.stem)
    return {path.name, path.stem, *([number[1]] if number else [])}
