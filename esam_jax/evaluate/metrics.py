"""Sums that can be added to and merged, so that a mean is the same in one pass or in many."""

import dataclasses
import math
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Mean:
    """The mean of everything added so far; NaN while that is nothing."""

    total: float = 0.0
    count: int = 0

    def add(self, values: Iterable[float]) -> "Mean":
        values = [float(value) for value in values]
        return self.merge(Mean(math.fsum(values), len(values)))

    def merge(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else math.nan
