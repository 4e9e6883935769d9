"""Records of several sections that come more or less often than once.

A record comes `floor(times)` times, and once more where a hash of its name is below the rest: which
of them do is the same on every machine, and a larger rest has all of those of a smaller one.
"""

import dataclasses
import itertools
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

from esam_jax.data import parts, records
from esam_jax.data.findings import Finding
from esam_jax.data.parts import Part
from esam_jax.data.records import (
    AnnotatedSource,
    ChecksummedSource,
    Record,
    SectionedSource,
    Source,
)
from esam_jax.errors import DataError

_MOST = 2**31 - 1  # records, which `order.Order` numbers in 32 bits


@dataclasses.dataclass(frozen=True)
class _Section:
    """Records from `first` on: `count` of them `times` times, and those `chosen` once more."""

    first: int
    count: int
    times: int
    chosen: Int[np.ndarray, " X"]  # counted from the first

    def __len__(self) -> int:
        return self.times * self.count + len(self.chosen)

    def __getitem__(self, place: int) -> tuple[int, int]:
        """The record at a place, and which of its copies this is, from 0 on."""
        copy, record = divmod(place, self.count)
        if copy >= self.times:
            copy, record = self.times, int(self.chosen[place - self.times * self.count])
        return self.first + record, copy


class Copies:
    """Records of a source by the numbers of times; further copies are named `copy_2/NAME`.

    A copy is a record of its own: it stands elsewhere in the order and is augmented by its name.
    """

    def __init__(self, source: Source, sections: Sequence[_Section], words: str) -> None:
        self._source, self._sections, self._words = source, tuple(sections), words
        self._ends = list(itertools.accumulate(map(len, sections)))

    def __len__(self) -> int:
        return self._ends[-1]

    def name(self, index: int) -> str:
        record, copy = self._place(index)
        return _named(self._source.name(record), copy)

    def read(self, index: int) -> Record:
        number, copy = self._place(index)
        record = self._source.read(number)
        return dataclasses.replace(record, name=_named(record.name, copy))

    @property
    def findings(self) -> Sequence[Finding]:
        return self._source.findings if isinstance(self._source, AnnotatedSource) else ()

    @property
    def classes(self) -> Sequence[str]:
        return records.classes(self._source)

    def damage(self) -> Iterator[str]:
        """Of the source, where it has checksums."""
        if isinstance(self._source, ChecksummedSource):
            yield from self._source.damage()

    def digest(self) -> str:
        of_all = self._source.digest() if isinstance(self._source, AnnotatedSource) else ""
        return f"{self._words} times {of_all}"

    def _place(self, index: int) -> tuple[int, int]:
        number = bisect_right(self._ends, index)
        section = self._sections[number]
        return section[index - (self._ends[number] - len(section))]


def of(source: Source, times: Sequence[float]) -> Copies:
    """The records of each section of a source so many times.

    DataError where a section has none left, or where there are more records than can be numbered.
    """
    sections, first = [], 0
    for number, (end, often) in enumerate(zip(_ends(source), times, strict=True), 1):
        full, rest = math.floor(often), often - math.floor(often)
        chosen = _chosen(source, range(first, end), rest) if rest else np.zeros(0, np.int32)
        section = _Section(first, end - first, full, chosen)
        if end > first and not len(section):
            raise DataError(
                f"times is {often} for path {number}, which leaves none of its {end - first} "
                "records: raise it, or leave the path out"
            )
        sections.append(section)
        first = end
    total = sum(map(len, sections))
    if total > _MOST:
        raise DataError(f"times make {total} records of an epoch, but at most {_MOST} can be read")
    return Copies(source, sections, " + ".join(f"{often:g}" for often in times))


def _ends(source: Source) -> Sequence[int]:
    """Where the sections end, in a part of a source, too."""
    if isinstance(source, Part):
        ends = _ends(source.source)
        return np.searchsorted(np.asarray(source.indices), ends).tolist()
    assert isinstance(source, SectionedSource)
    return source.ends


def _chosen(source: Source, records: range, share: float) -> Int[np.ndarray, " X"]:
    """Which of the records are in a share."""
    found = (parts.in_share(source.name(i), share, b"copies") for i in records)
    return np.flatnonzero(np.fromiter(found, bool, len(records))).astype(np.int32)


def _named(name: str, copy: int) -> str:
    return f"copy_{copy + 1}/{name}" if copy else name
