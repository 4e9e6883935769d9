"""Positions to examples, and the decision when too many records are unusable.

An example carries the status of every record that was tried for it. Making one depends on nothing
but its position, so it can happen in any thread or process; statuses are summed, and a run is
stopped, in the order in which examples are used. Both are therefore the same in every run.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Literal

from esam_jax.config import ViewConfig
from esam_jax.data import views
from esam_jax.data.findings import Finding, Findings
from esam_jax.data.order import Order
from esam_jax.data.records import AnnotatedSource, Source
from esam_jax.data.views import View, draws
from esam_jax.errors import DataError, DiskError, MissingError, TrainingError

_ENOUGH_BROKEN = 10  # fewer broken records than this never stop a run
_MOST_EMPTY = 1000  # empty records used in a row before a run stops
_TRIES = 10  # records that are tried for one example before `Tally` decides
_REPLACEMENT = 1  # keeps the choice of a replacement apart from the augmentation


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A record that was tried, and whether its view could be made.

    "empty": intact, but without anything that the view shows. "unreadable": the storage did not
    answer, which may pass; "broken" will not. `findings` are about a record that is not broken.
    """

    name: str
    status: Literal["usable", "empty", "broken", "unreadable"]
    reason: str = ""
    findings: tuple[Finding, ...] = ()


@dataclasses.dataclass(frozen=True)
class Example:
    """The view of the last record tried for a position; None where none of these was usable."""

    position: int
    attempts: tuple[Attempt, ...]
    view: View | None


class Examples:
    """position -> example, unusable records replaced; without state, so that workers may share it.

    `examples[position]` tries a few records; `make` continues where the example before ended.
    `repeats` as of `Order`: the views of one record in a row differ.
    """

    def __init__(self, source: Source, view: ViewConfig, seed: int, repeats: int = 1) -> None:
        self.records = len(source)
        self._source, self._view_config, self._seed = source, view, seed
        self._order = Order(self.records, seed, repeats)
        self.findings = source.findings if isinstance(source, AnnotatedSource) else ()

    def __getitem__(self, position: int) -> Example:
        return self.make(position)

    def name(self, position: int) -> str:
        """The record that stands at a position; another one is used where it is unusable."""
        return self._source.name(self._order[position][1])

    def make(self, position: int, tried: int = 0) -> Example:
        """The example at a position, without the first `tried` records that stand for it."""
        epoch, index = self._order[position]
        copy = self._order.copy(position)
        attempts: list[Attempt] = []
        for candidate in itertools.islice(self._candidates(epoch, index), tried, tried + _TRIES):
            attempt, view = self._try(epoch, candidate, copy)
            attempts.append(attempt)
            if view is not None:
                return Example(position, tuple(attempts), view)
        return Example(position, tuple(attempts), None)

    def _candidates(self, epoch: int, index: int) -> Iterator[int]:
        """The record itself, then every other one once, in an order of its own."""
        yield index
        rng = draws.generator(self._seed, epoch, self._source.name(index), _REPLACEMENT)
        stride = int(rng.integers(1, self.records)) if self.records > 1 else 1
        while math.gcd(stride, self.records) > 1:  # coprime steps visit everything
            stride += 1
        for k in range(1, self.records):
            yield (index + k * stride) % self.records

    def _try(self, epoch: int, index: int, copy: int) -> tuple[Attempt, View | None]:
        name = self._source.name(index)
        rng = draws.generator(self._seed, epoch, name, copy=copy)
        try:
            record = self._source.read(index)
            view = views.make(record, self._view_config, rng)
        except DiskError as error:
            return Attempt(name, "unreadable", str(error)), None
        except (DataError, MissingError) as error:
            return Attempt(name, "broken", str(error)), None
        found = tuple(record.findings)
        if view is None:
            return Attempt(name, "empty", views.empty_reason(self._view_config), found), None
        return Attempt(name, "usable", findings=found), view


class Tally:
    """The statuses of all examples used so far, and the rules that stop a run.

    `broken` names each record that could not be read, with the reason, and `empty` those that had
    nothing to show. `findings` are about the others: an object that is left out stops no run.
    """

    def __init__(self, examples: Examples, max_broken_share: float) -> None:
        self._examples, self._max_broken_share = examples, max_broken_share
        self.findings = Findings(examples.findings)
        self.broken: dict[str, str] = {}
        self.empty: dict[str, str] = {}
        self._reads = self._failures = self._empty_in_a_row = self._unreadable_in_a_row = 0

    def view_of(self, example: Example) -> View:
        """The view of an example; errors as of `named_view_of`."""
        return self.named_view_of(example)[1]

    def named_view_of(self, example: Example) -> tuple[str, View]:
        """The view of an example, made of further records where none of its own was usable, and the
        name of the record that it is of.

        TrainingError when too many records are broken or empty, DiskError when the storage is to
        blame: the same command may then succeed later.
        """
        tried = 0
        while True:
            for attempt in example.attempts:
                self._add(attempt)
            if example.view is not None:
                return example.attempts[-1].name, example.view
            tried += len(example.attempts)
            if tried == self._examples.records:
                raise TrainingError(self._nothing_left())
            example = self._examples.make(example.position, tried)

    def _add(self, attempt: Attempt) -> None:
        self._reads += 1
        self.findings.add(attempt.findings)
        if attempt.status in ("broken", "unreadable"):
            self._add_broken(attempt)
            return
        self._unreadable_in_a_row = 0
        if attempt.status == "usable":
            self._empty_in_a_row = 0
            return
        self.empty[attempt.name] = attempt.reason
        self._empty_in_a_row += 1
        if self._empty_in_a_row >= _MOST_EMPTY:
            raise TrainingError(f"{_MOST_EMPTY} records in a row have {attempt.reason}")

    def _add_broken(self, attempt: Attempt) -> None:
        self._failures += 1
        self.broken[attempt.name] = attempt.reason
        passes = attempt.status == "unreadable"
        self._unreadable_in_a_row = self._unreadable_in_a_row + 1 if passes else 0
        last = f"The last one is {attempt.name}: {attempt.reason}"
        if self._unreadable_in_a_row >= min(_ENOUGH_BROKEN, self._examples.records):
            raise DiskError(
                f"{self._unreadable_in_a_row} records in a row cannot be read: the disk no longer "
                f"answers. {last}"
            )
        share = self._failures / self._reads
        if len(self.broken) >= _ENOUGH_BROKEN and share > self._max_broken_share:
            raise (DiskError if passes else TrainingError)(
                f"{share:.1%} of {self._reads} records read are broken, but at most "
                f"max_broken_share={self._max_broken_share:.1%} may be; repair them or raise it. "
                f"{last}"
            )

    def _nothing_left(self) -> str:
        parts = []
        if self.broken:
            reason = next(iter(self.broken.values()))
            parts.append(f"{len(self.broken)} are broken ({reason})")
        if self.empty:
            reason = next(iter(self.empty.values()))
            parts.append(f"{len(self.empty)} have {reason}")
        return f"no record of {self._examples.records} can be used: {'; '.join(parts)}"
