"""Means over seeds with their intervals, and where a curve reaches a value."""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Sequence

Number = int | float
_TWO_SIDED = 0.975  # for 95 %


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over seeds, and its 95 % interval by Student's t; None of one seed alone."""

    mean: float
    low: float | None
    high: float | None
    seeds: int

    def words(self, *, signed: bool = False) -> str:
        """0.733 ± 0.012."""
        shown = f"{self.mean:+.3f}" if signed else f"{self.mean:.3f}"
        return shown if self.high is None else f"{shown} ± {self.high - self.mean:.3f}"

    @property
    def sign(self) -> int:
        """Of a difference: 1 or -1 where its interval leaves out 0, else 0."""
        if self.low is None or self.high is None:
            return 0
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


def mean(values: Sequence[float]) -> Mean:
    """Of the values of some seeds, which are independent of each other."""
    from scipy import special  # here, since it is slow to import

    found, count = math.fsum(values) / len(values), len(values)
    if count < 2:
        return Mean(found, None, None, count)
    half = float(special.stdtrit(count - 1, _TWO_SIDED))
    half *= statistics.stdev(values) / math.sqrt(count)
    return Mean(found, found - half, found + half, count)


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Mean:
    """Of the differences ours - theirs, seed by seed."""
    return mean([one - other for one, other in zip(ours, theirs, strict=True)])


def reached(points: Sequence[tuple[Number, float]], value: float) -> Number | None:
    """The x at which a curve first has this value, linear in log x between its points.

    The first x where it starts there or above; None where it never gets there.
    """
    if points and points[0][1] >= value:
        return points[0][0]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if y0 < value <= y1:
            share = (value - y0) / (y1 - y0)
            return math.exp(math.log(x0) + share * (math.log(x1) - math.log(x0)))
    return None
