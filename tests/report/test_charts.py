"""Charts: their ticks hold the data, and their curves lie where the numbers say."""

import itertools
import math
import re
import xml.etree.ElementTree as ET

import pytest

from esam_jax.report import charts
from esam_jax.report.charts import Series


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-3.2, 17), (0.0012, 0.0013), (5e8, 9e8), (2.0, 2.0), (0.0, 0.0)]
)
def test_ticks_are_few_and_hold_the_range(low, high):
    found = charts.ticks(low, high)
    assert 3 <= len(found) <= 9
    assert found[0] <= low and high <= found[-1]
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert max(steps) == pytest.approx(min(steps))


def test_log_ticks():
    assert charts.log_ticks(0.02, 30.0) == pytest.approx([0.01, 0.1, 1.0, 10.0, 100.0])
    assert all(tick > 0 for tick in charts.log_ticks(1.0, 3.0))


def test_short_numbers():
    wanted = {1500.0: "1.5k", 0.02: "0.02", 2e6: "2M", 3e-5: "3e-05", 0.0: "0", -1e9: "-1G"}
    assert {value: charts.short(value) for value in wanted} == wanted


def points_of(svg):
    return [
        [tuple(map(float, pair.split(","))) for pair in line.split()]
        for line in re.findall(r'points="([^"]+)"', svg)
    ]


def test_a_curve_rises_with_its_values():
    svg = charts.line_chart([Series("a", [(0, 1.0), (10, 2.0), (20, 3.0)])])
    ET.fromstring(svg)  # well-formed
    ((first, middle, last),) = points_of(svg)
    assert first[0] < middle[0] < last[0] and first[1] > middle[1] > last[1]  # y points down
    assert middle == pytest.approx(((first[0] + last[0]) / 2, (first[1] + last[1]) / 2), abs=0.1)


def test_what_no_axis_can_show_is_left_out():
    values = [(0, 1.0), (1, math.nan), (2, math.inf), (3, 0.0), (4, 10.0)]
    assert len(points_of(charts.line_chart([Series("a", values)]))[0]) == 3
    assert len(points_of(charts.line_chart([Series("a", values)], log=True))[0]) == 2
    assert charts.line_chart([Series("a", [(1, math.nan)])]) == ""


def test_long_curves_keep_their_peaks():
    values = [(i, 5.0 if i == 12345 else math.sin(i)) for i in range(50_000)]
    svg = charts.line_chart([Series("a", values)])
    (found,) = points_of(svg)
    assert len(found) < 1000
    assert min(y for _, y in found) == pytest.approx(charts._TOP, abs=40)
    assert [x for x, _ in found] == sorted(x for x, _ in found)


def test_names_are_escaped():
    svg = charts.line_chart([Series("<a&b>", [(0, 1.0)]), Series("c", [(0, 2.0)])])
    assert "&lt;a&amp;b&gt;" in svg
    ET.fromstring(svg)
