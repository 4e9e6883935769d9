"""Intervals and crossings against slow, obvious versions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.study import intervals
from esam_jax.study.intervals import Mean

# Two-sided 95 % quantiles of Student's t as printed in tables, by degrees of freedom.
QUANTILES = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 9: 2.262}


@pytest.mark.parametrize(("freedom", "quantile"), QUANTILES.items())
def test_an_interval_is_that_of_students_t(freedom: int, quantile: float):
    values = np.random.default_rng(freedom).normal(0.7, 0.02, freedom + 1)
    found = intervals.mean(values.tolist())
    half = quantile * values.std(ddof=1) / math.sqrt(len(values))
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=1e-5)
    assert found.high == pytest.approx(values.mean() + half, abs=1e-5)
    assert found.seeds == freedom + 1


def test_an_interval_holds_the_mean_in_nineteen_of_twenty_draws():
    rng = np.random.default_rng(0)
    found = [intervals.mean(rng.normal(0.3, 1.0, 4).tolist()) for _ in range(2000)]
    covered = np.mean([each.low < 0.3 < each.high for each in found])
    assert covered == pytest.approx(0.95, abs=0.015)  # three standard errors


def test_one_seed_has_no_interval():
    found = intervals.mean([0.5])
    assert found == Mean(0.5, None, None, 1) and found.words() == "0.500" and found.sign == 0


def test_differences_are_paired_by_seed():
    """Seeds differ by more than arms do: unpaired, this gain would be lost."""
    theirs = np.array([0.6, 0.7, 0.8])
    found = intervals.paired((theirs + np.array([0.03, 0.032, 0.031])).tolist(), theirs.tolist())
    assert found.sign == 1 and found.mean == pytest.approx(0.031)
    assert intervals.paired(theirs.tolist(), (theirs + 0.01).tolist()).mean < 0
    assert intervals.paired([0.1, 0.2], [0.2, 0.1]).sign == 0
    assert found.words(signed=True) == "+0.031 ± 0.002"


def scanned(points: list[tuple[float, float]], value: float) -> float | None:
    """By looking at a hundred thousand places."""
    xs = np.geomspace(points[0][0], points[-1][0], 100_001)
    ys = np.interp(np.log(xs), np.log([x for x, _ in points]), [y for _, y in points])
    above = np.flatnonzero(ys >= value - 1e-12)
    return float(xs[above[0]]) if above.size else None


# Values on a grid: a slow search cannot tell a peak from a value a hair above it.
@given(st.lists(st.integers(0, 20), min_size=2, max_size=6), st.integers(0, 40))
def test_a_value_is_reached_where_a_slow_search_finds_it(heights: list[int], doubled: int):
    points, value = [(40.0 * 2**i, y / 20) for i, y in enumerate(heights)], doubled / 40
    found, slow = intervals.reached(points, value), scanned(points, value)
    assert (found is None) == (slow is None)
    assert found is None or found == pytest.approx(slow, rel=1e-3)


def test_a_curve_that_starts_above_reaches_a_value_at_its_start():
    assert intervals.reached([(40, 0.7), (80, 0.6)], 0.65) == 40
    assert intervals.reached([(40, 0.6), (160, 0.7)], 0.65) == pytest.approx(80)  # in log steps
    assert intervals.reached([(40, 0.6), (160, 0.7)], 0.71) is None
    assert intervals.reached([], 0.5) is None
