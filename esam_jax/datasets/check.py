"""Every record of a data set read and decoded: which are broken and why, and what there is."""

import dataclasses
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from esam_jax.data import class_names, parallel
from esam_jax.data.findings import Findings
from esam_jax.data.records import AnnotatedSource, ChecksummedSource, Source, classes, summary
from esam_jax.datasets.examine import Examined, digest, examine
from esam_jax.datasets.totals import Totals
from esam_jax.errors import DiskError

_LISTED = 100  # bad records, and groups of equal ones, that a report names
_UNREADABLE_IN_A_ROW = 10  # the disk no longer answers

Over = Callable[[Iterable[Examined]], Iterable[Examined]]


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is wrong with one record, or was found in it; `kind` is its status or a finding's."""

    record: str
    kind: str
    text: str


@dataclasses.dataclass
class Check:
    """What has been found so far of the records of a source."""

    source: Source
    totals: Totals = dataclasses.field(default_factory=Totals)
    findings: Findings = dataclasses.field(default_factory=Findings)
    bad: list[Problem] = dataclasses.field(default_factory=list)  # the first ones
    statuses: Counter[str] = dataclasses.field(default_factory=Counter)
    _contents: array = dataclasses.field(default_factory=lambda: array("Q"))
    _fine: array = dataclasses.field(default_factory=lambda: array("q"))
    _unreadable: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.source, AnnotatedSource):
            self.findings.add(self.source.findings)

    def add(self, index: int, found: Examined) -> Iterator[Problem]:
        """One more record, and what is wrong with it; DiskError where a row cannot be read."""
        self.statuses[found.status] += 1
        self.findings.add(found.findings)
        yield from (Problem(found.name, each.kind, each.text) for each in found.findings)
        self._unreadable = self._unreadable + 1 if found.status == "unreadable" else 0
        if found.status != "fine":
            problem = Problem(found.name, found.status, found.reason)
            if len(self.bad) < _LISTED:
                self.bad.append(problem)
            yield problem
            if self._unreadable >= _UNREADABLE_IN_A_ROW:
                raise DiskError(
                    f"{self._unreadable} records in a row cannot be read: the disk no longer "
                    f"answers. The last one is {found.name}: {found.reason}"
                )
            return
        self.totals.add(found)
        self._contents.append(found.content)
        self._fine.append(index)

    def same_contents(self) -> Iterator[list[str]]:
        """Names of the records whose pictures are the same bytes, together."""
        yield from _groups(self.source, np.asarray(self._contents), np.asarray(self._fine))

    def same_names(self) -> Iterator[list[str]]:
        """Names that several records have, as often as they have it."""
        names = array("Q", (_of_name(self.source.name(i)) for i in range(len(self.source))))
        yield from _groups(self.source, np.asarray(names), np.arange(len(names)))

    @property
    def bad_share(self) -> float:
        records = self.statuses.total()
        return (records - self.statuses["fine"]) / records if records else 0.0


def run(
    source: Source,
    *,
    workers: int = 1,
    over: Over = iter,
    note: Callable[[Problem], object] = lambda problem: None,
) -> dict[str, Any]:
    """Reads all records of a source, and reports; `note` is called with each problem.

    {"data" (a digest), "records", "bad", "bad_share", "reasons" (of the first hundred), "damaged"
    (files whose checksums are wrong), "findings" (by kind), "notes" (the same in words, and what
    is unexpected of the classes),
    "duplicates": {"contents", "names"} (records, and the first hundred groups), and what
    `Totals.to_json` gives}. The same for any number of workers. `over` follows the progress.
    DiskError where the disk no longer answers.
    """
    check = Check(source)
    for each in check.findings.all:
        note(Problem("", each.kind, each.text))
    found = parallel.over(source, range(len(source)), examine, workers)
    for index, examined in enumerate(over(found)):
        for problem in check.add(index, examined):
            note(problem)
    damaged = list(source.damage()) if isinstance(source, ChecksummedSource) else []
    for text in damaged:
        note(Problem("", "damaged", text))
    duplicates = {}
    for kind, groups in (("contents", check.same_contents()), ("names", check.same_names())):
        count, listed = 0, []
        for group in groups:
            count += len(group)
            if len(listed) < _LISTED:
                listed.append(group)
            for name in group[1:]:
                note(Problem(name, f"same_{kind}", f"{name} has the {kind} of {group[0]}"))
        duplicates[kind] = {"records": count, "groups": listed}
    known = check.totals.to_json()
    of_classes = class_names.notes(classes(source), known["labels"]) if "labels" in known else []
    return {
        "data": summary(source),
        "records": check.statuses.total(),
        "bad": check.statuses.total() - check.statuses["fine"],
        "bad_share": check.bad_share,
        "reasons": [dataclasses.asdict(each) for each in check.bad],
        "damaged": damaged,
        "findings": check.findings.counts(),
        "notes": [*check.findings.in_words("data.source."), *of_classes],
        "duplicates": duplicates,
        **known,
    }


def _groups(source: Source, keys: np.ndarray, indices: np.ndarray) -> Iterator[list[str]]:
    """Names of the records of equal keys, by the first record of each group."""
    if not len(keys):
        return
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    several = np.flatnonzero(counts[inverse] > 1)
    groups: dict[int, list[str]] = {}
    for at in several.tolist():
        groups.setdefault(int(inverse[at]), []).append(source.name(int(indices[at])))
    yield from groups.values()


def _of_name(name: str) -> int:
    return digest(name.encode(errors="surrogatepass"))
