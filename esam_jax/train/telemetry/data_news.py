"""What a run says about its data: records and objects that cannot be used, and why."""

import warnings
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax

from esam_jax.data.findings import Findings
from esam_jax.words import counted

_REASONS = 20  # at most, in one line of metrics.jsonl
_OPTIONS = "data.source."  # what the data of a run is read by


@runtime_checkable  # for the shape checks in the tests
class Reads(Protocol):
    """What is reported of the batches that a run reads."""

    @property
    def broken(self) -> Mapping[str, str]: ...

    @property
    def findings(self) -> Findings: ...


class DataNews:
    """Values for metrics.jsonl whenever there is something new, and a warning for each kind of it.

    The file is of process 0, whose share of the records is another one than that of its peers:
    these warn of everything that is new.
    """

    def __init__(self, reads: Reads) -> None:
        self._reads = reads
        self._broken = self._findings = 0  # reported so far
        self._warned: dict[str, int] = {}

    def values(self) -> dict[str, Any]:
        """The counts so far, and what is new with its reason; empty when nothing is."""
        broken, findings = dict(self._reads.broken), self._reads.findings
        new = list(broken.items())[self._broken :]
        found = findings.all[self._findings :]
        self._broken, self._findings = len(broken), len(findings.all)
        if not new and not found:
            return {}
        if jax.process_index() > 0:
            texts = [*(f"{name}: {reason}" for name, reason in new), *(x.text for x in found)]
            _warn(f"new records and objects ({len(texts)}): {'; '.join(texts[:_REASONS])}")
        else:
            self._warn_of_totals(again=False)
        values: dict[str, Any] = {}
        if new:
            values |= {"broken": len(broken), "broken_names": [name for name, _ in new]}
            values |= {"broken_reasons": [reason for _, reason in new[:_REASONS]]}
        if found:
            values |= findings.counts()
            reasons: dict[str, list[str]] = {}
            for each in found[:_REASONS]:
                reasons.setdefault(each.kind, []).append(each.text)
            values |= {"left_out_reasons": reasons}
        return values

    def final(self) -> dict[str, Any]:
        """`values` at the end of a run; what has grown since its warning is counted again."""
        values = self.values()
        self._warn_of_totals(again=True)
        return values

    def _warn_of_totals(self, again: bool) -> None:
        """Of each kind that is new, or, `again`, that has grown."""
        broken, findings = self._reads.broken, self._reads.findings
        counts: dict[str, int] = {**findings.counts()}
        texts = dict(zip(counts, findings.in_words(_OPTIONS), strict=True))
        if broken:
            counts["broken"] = len(broken)
            name, reason = next(iter(broken.items()))
            count = counted(len(broken), "record")
            texts["broken"] = f"{count} cannot be used, the first: {name}: {reason}"
        due = [
            kind
            for kind, count in counts.items()
            if kind not in self._warned or (again and count > self._warned[kind])
        ]
        if due:
            self._warned |= {kind: counts[kind] for kind in due}
            _warn("; ".join(texts[kind] for kind in due))


def _warn(text: str) -> None:
    host = f"host {jax.process_index()}: " if jax.process_index() > 0 else ""
    warnings.warn(f"{host}data so far: {text}", UserWarning, stacklevel=4)
