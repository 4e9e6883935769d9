"""The files of many tar archives as one list, read where they lie: nothing is unpacked.

Each archive has an index (`tar_index.py`), beside it or in a folder of indexes. Files are read by
`pread`, so that threads share no position; a copy in another process opens the archives itself.
"""

import dataclasses
import itertools
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Integer, UInt64
from tqdm import tqdm

from esam_jax.data import tar_index, tars
from esam_jax.data.findings import Finding
from esam_jax.data.tar_index import BLOCK, NO_NUMBER, Index, Stamp
from esam_jax.data.tars import OpenFiles
from esam_jax.errors import DataError, EsamError
from esam_jax.places import Place, StorePath

_MOST_TARS = 2**16 - 1  # their places take two bytes of a row
_AHEAD = 2**22  # bytes of a file in a store that are read at first: most are one call
_EVERY_SECONDS = 10.0  # a line of progress
_T = TypeVar("_T")

Reader = Callable[[int], bytes]


class TarFiles:
    """Files of several archives as one list, in the order of their names, each name once.

    Its memory is that of `rows`, beside common strings. A row begins with the place of its archive
    in `tars`, then has the fields of ROW, whose `head` and `tail` are places in `strings`, then
    what a source has added.
    """

    def __init__(
        self,
        tars: Sequence[Place],
        stamps: Sequence[Stamp],
        strings: tuple[str, ...],
        rows: np.ndarray,
        open_files: OpenFiles,
    ) -> None:
        self.tars, self.stamps, self.strings, self.rows = tars, stamps, strings, rows
        self._files = open_files

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: Integer[np.ndarray, " X"]) -> "TarFiles":
        """Some of the files, in that order."""
        rows = self.rows[places]
        return TarFiles(self.tars, self.stamps, self.strings, rows, self._files)

    def name(self, index: int) -> str:
        row, strings = self.rows[index], self.strings
        return tar_index.joined(strings[row["head"]], int(row["number"]), strings[row["tail"]])

    def tar(self, index: int) -> Place:
        """The archive of a file."""
        return self.tars[int(self.rows[index]["tar"])]

    def where(self, index: int, name: str, block: str = "block") -> str:
        """A file, for people: its archive, the byte at which it begins there, and its name."""
        return f"{self.tar(index)}, byte {int(self.rows[index][block]) * BLOCK}: {name}"

    def reader(self, index: int, block: str = "block", size: str = "size") -> Reader:
        """What reads on in a file, as the `read` of an open one; fields of a row say where it is.

        It raises DataError for an archive that was changed or cut short, MissingError and DiskError
        as `files.read`.
        """
        row = self.rows[index]
        place, offset, left = int(row["tar"]), int(row[block]) * BLOCK, int(row[size])
        ahead = _AHEAD if isinstance(self.tars[place], StorePath) else 0
        held = b""

        def read(most: int) -> bytes:
            nonlocal offset, left, held
            count = min(max(most - len(held), ahead), left) if most > len(held) else 0
            if count:
                held += self._files.read(self.tars[place], self.stamps[place], offset, count)
                offset, left = offset + count, left - count
            found, held = held[:most], held[most:]
            return found

        return read


Select = Callable[[Place, Index], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Opened:
    """The files of `open_all`; `left_out` counts, of each archive, entries not read, by reason.

    Of one name in several archives the first counts; `repeated` are the others.
    """

    files: TarFiles
    repeated: tuple[tuple[Place, str], ...]
    left_out: Mapping[Place, Mapping[str, int]]

    def findings(self) -> list[Finding]:
        """What was left out, one for each archive, and one for names that are there already."""
        found = []
        for tar, counts in self.left_out.items():
            reasons = ", ".join(f"{reason} ({count})" for reason, count in sorted(counts.items()))
            found.append(Finding("members_left_out", f"{tar}: {reasons}", sum(counts.values())))
        if self.repeated:
            (tar, name), count = self.repeated[0], len(self.repeated)
            more = f" (the first of {count})" if count > 1 else ""
            text = f"{tar}: {name} is in an archive before it, too{more}"
            found.append(Finding("pictures_left_out", text, count))
        return found


def open_all(path: Place, folder: Place | None, select: Select, *, folders: bool = False) -> Opened:
    """What `select` takes of the archive `path`, or of all archives below it.

    It gets an archive and its index, and gives rows of it, perhaps with more fields. With `folders`
    names begin with that of their archive, as if each were unpacked into one. Indexes that
    are missing are built, with progress on stderr; a UserWarning names each that was stale or
    damaged. DataError for an archive that cannot be used, or where there is none.
    """
    paths = tars.find(path)
    if not paths:
        raise DataError(f"{path} holds no {tars.ENDING} file at any depth")
    if len(paths) > _MOST_TARS:
        raise DataError(f"{path} holds {len(paths)} archives, but at most {_MOST_TARS} are read")
    strings: dict[str, int] = {}
    parts: list[np.ndarray] = []
    stamps: list[Stamp] = []
    left_out: dict[Place, Mapping[str, int]] = {}
    for found in _followed(tars.indexed(paths, path, folder), len(paths)):
        if isinstance(found, EsamError):
            raise found
        if found.why:
            warnings.warn(f"{found.why}: built again", UserWarning, stacklevel=2)
        rows = select(found.tar, found.index)
        parent = found.tar.relative_to(path).with_suffix("").as_posix() if folders else None
        parts.append(_part(len(parts), found.index, rows, strings, parent))
        stamps.append(found.index.stamp)
        if found.index.left_out:
            left_out[found.tar] = found.index.left_out
    listed = TarFiles(paths, stamps, tuple(strings), np.concatenate(parts), OpenFiles())
    parts.clear()  # as large as the rows
    return _by_name(listed, left_out)


def _followed(found: Iterator[_T], total: int) -> Iterator[_T]:
    """The same, with progress on stderr: a bar on a terminal, a line every some seconds elsewhere.

    What has an index takes milliseconds, and nothing is written.
    """
    if sys.stderr.isatty():
        yield from tqdm(found, "index archives", total, unit="archive", leave=False)
        return
    last = time.monotonic()
    for done, each in enumerate(found, 1):
        yield each
        if time.monotonic() - last >= _EVERY_SECONDS and done < total:
            last = time.monotonic()
            print(f"esam: {done} of {total} archives are indexed", file=sys.stderr)


def _part(
    place: int, index: Index, rows: np.ndarray, strings: dict[str, int], parent: str | None
) -> np.ndarray:
    """Rows of one archive with its place, and with the places of their strings among all."""
    made = np.empty(len(rows), [("tar", "<u2"), *rows.dtype.descr])
    made["tar"] = place
    for field in rows.dtype.names or ():
        made[field] = rows[field]
    for field in ("head", "tail"):
        before = f"{parent}/" if field == "head" and parent is not None else ""
        used, inverse = np.unique(rows[field], return_inverse=True)
        texts = [f"{before}{index.strings[each]}" for each in used.tolist()]
        known = [strings.setdefault(text, len(strings)) for text in texts]
        made[field] = np.array(known, np.uint32)[inverse]
    if parent is not None:  # the last number of a name without one is that of its parent
        for row in np.flatnonzero(made["number"] == NO_NUMBER).tolist():
            name = f"{parent}/{index.strings[rows['head'][row]]}{index.strings[rows['tail'][row]]}"
            head, number, tail = tar_index.split(name)
            known = [strings.setdefault(text, len(strings)) for text in (head, tail)]
            made[["head", "number", "tail"]][row] = known[0], number, known[1]
    return made


def _by_name(listed: TarFiles, left_out: Mapping[Place, Mapping[str, int]]) -> Opened:
    rows = listed.rows
    order = _order(listed)
    repeats = np.zeros(len(rows), bool)
    repeats[1:] = True
    for field in ("head", "number", "tail"):
        values = rows[field][order]
        repeats[1:] &= values[1:] == values[:-1]
    repeated = [(listed.tar(i), listed.name(i)) for i in order[repeats].tolist()]
    return Opened(listed.take(order[~repeats]), tuple(repeated), left_out)


def _order(listed: TarFiles) -> Integer[np.ndarray, " X"]:
    """The places of all rows in the order of their names, by code point, then of their archives.

    Without making the names where that is possible: there may be eleven million.
    """
    rows, strings = listed.rows, listed.strings
    heads = sorted({strings[i] for i in np.unique(rows["head"]).tolist()})
    tails = sorted({strings[i] for i in np.unique(rows["tail"]).tolist()})
    apart = not any(b.startswith(a) for a, b in itertools.pairwise(heads))
    if not apart or any(tail[:1] >= "0" for tail in tails):
        names = [listed.name(i) for i in range(len(rows))]
        return np.array(sorted(range(len(rows)), key=names.__getitem__), np.int64)
    # No head begins another, and each tail comes before any digit: heads decide, then digits.
    ranks = np.zeros(len(strings), np.uint32)
    keys = []
    for field, texts in (("tail", tails), ("head", heads)):
        places = {text: rank for rank, text in enumerate(texts)}
        for i in np.unique(rows[field]).tolist():
            ranks[i] = places[strings[i]]
        keys.append(ranks[rows[field]])
    keys.insert(1, _decimal(rows["number"]))
    varying = [key for key in keys if len(key) and (key != key[0]).any()]
    return np.lexsort(varying) if varying else np.arange(len(rows))


def _decimal(numbers: Integer[np.ndarray, " X"]) -> UInt64[np.ndarray, " X"]:
    """Keys in the order of numbers as text: 1, 10, 100, 11, 2; the lack of one comes first."""
    powers = 10 ** np.arange(1, 10, dtype=np.uint64)
    digits = np.searchsorted(powers, numbers, side="right").astype(np.uint64) + np.uint64(1)
    keys = numbers.astype(np.uint64) * np.uint64(10) ** (np.uint64(10) - digits)
    keys = keys * np.uint64(16) + digits
    keys[numbers == NO_NUMBER] = 0
    return keys
