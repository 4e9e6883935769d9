"""When a run has learned what it can: evaluations that no longer improve end it."""

import math
from collections.abc import Mapping
from typing import Any


def exhausted_at(
    measured: Mapping[int, Mapping[str, Any]], metric: str, patience: int
) -> int | None:
    """The step after whose evaluation a run ends: the `patience`-th in a row without a better value
    than the best before. None where it has not come to that.

    `measured` holds evaluations by step; one without a number for `metric` is passed over.
    """
    best, waited = -math.inf, 0
    for step in sorted(measured):
        value = measured[step].get(metric)
        if not isinstance(value, int | float):
            continue
        best, waited = (value, 0) if value > best else (best, waited + 1)
        if waited >= patience:
            return step
    return None
