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
    assert charts.log_ticks(0.03, 0.7) == pytest.approx([0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
    assert charts.log_ticks(1.0, 5.0) == pytest.approx([1.0, 2.0, 5.0])
    for low, high in ((2.0, 2.0), (3.0, 9.9), (1e-5, 1e5)):
        found = charts.log_ticks(low, high)
        assert found[0] <= low * 1.001 and high <= found[-1] * 1.001 and len(found) <= 12


def decaying(start, end, steps=100, rate=0.1):
    return [(i, end + (start - end) * math.exp(-rate * i)) for i in range(steps)]


@pytest.mark.parametrize(
    ("points", "skewed"),
    [
        (decaying(1.0, 0.05), True),  # a loss: the most of a linear axis would show its start
        (decaying(1.1, 1.0), False),  # too narrow for another axis to matter
        ([(i, 1.0 + i) for i in range(100)], False),  # over decades, but evenly
        ([(x, 1 - y) for x, y in decaying(0.98, 0.2)], False),  # an IoU that rises
        (decaying(1.0, 0.0, rate=1e3), False),  # zero has no logarithm
        ([(i, 10.0 ** (i / 30)) for i in range(100)], True),  # a loss that explodes
        ([(0, math.nan)], False),
    ],
)
def test_a_logarithmic_axis_where_it_shows_more(points, skewed):
    assert charts.is_skewed([Series("a", points)]) == skewed
    # Whatever it is compared with.
    level = charts.level("mean", [(0, 1e-6), (99, 1e-6)])
    assert charts.is_skewed([Series("a", points), *level]) == skewed


def test_a_reference_is_a_dashed_level():
    points = [(0, 1.0), (10, 2.0), (20, 3.0)]
    (level,) = charts.level("mean", [(0, 4.0), (10, math.nan), (20, 6.0)])
    assert list(level.points) == [(0, 5.0), (20, 5.0)]
    assert charts.level("mean", [(0, math.nan)]) == []
    svg = charts.line_chart([Series("a", points), level])
    curve, reference = points_of(svg)
    assert len(curve) == 3 and reference[0][1] == reference[1][1] < min(y for _, y in curve)
    assert svg.count("stroke-dasharray") == 2 and svg.count("<circle") == 1  # itself and its name
    assert ">mean</text>" in svg


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


MEAN = Series("a", [(40, 0.6), (80, 0.7), (160, 0.75)], band=[(40, 0.5, 0.7), (160, 0.7, 0.8)])


def test_a_band_lies_between_its_ends():
    chart = charts.line_chart([MEAN])
    band = re.findall(r'<polygon [^>]*points="([^"]+)"', chart)
    corners = [tuple(map(float, point.split(","))) for point in band[0].split()]
    curve = re.findall(r'<polyline [^>]*points="([^"]+)"', chart)[0].split()
    first = float(curve[0].split(",")[1])
    assert len(band) == 1 and len(corners) == 4
    low, high = corners[0][1], corners[-1][1]  # at the first step; y grows downwards
    assert high < first < low and first - high == pytest.approx(low - first, abs=0.2)
    assert "<polygon" not in charts.line_chart([Series("a", MEAN.points)])


def test_the_axis_holds_a_band_that_reaches_beyond_the_curves():
    wide = Series("a", [(1, 0.5), (2, 0.5)], band=[(1, 0.1, 0.9), (2, 0.1, 0.9)])
    ys = [float(y) for y in re.findall(r'points="[\d.]+,([\d.]+)', charts.line_chart([wide]))]
    assert all(0 < y < charts.HEIGHT for y in ys)
    assert ">0.9<" in charts.line_chart([wide]) or ">1<" in charts.line_chart([wide])


def test_steps_on_a_logarithmic_axis_are_marked_where_labels_do_not_touch():
    chart = charts.line_chart([MEAN], log_x=True)
    xs = [
        float(point.split(",")[0])
        for point in re.findall(r'fill="none" [^>]*points="([^"]+)"', chart)[0].split()
    ]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    assert all(f">{n}</text>" in chart for n in (40, 80, 160))
    near = Series("a", [(100, 1.0), (101, 1.0), (10_000, 2.0)])
    chart = charts.line_chart([near], log_x=True)
    assert ">100</text>" in chart and ">101</text>" not in chart


def test_many_names_take_several_rows_and_stay_inside():
    many = [Series(f"a rather long name {i}", [(0, i), (1, i)]) for i in range(7)]
    chart = charts.line_chart(many)
    places = re.findall(r'<text x="([\d.]+)" y="([\d.]+)">a rather long name', chart)
    rows = {y for _, y in places}
    assert len(places) == 7 and len(rows) > 2
    assert all(float(x) + 6.2 * 20 <= charts.WIDTH + 10 for x, _ in places)
    highest = min(float(y) for y in re.findall(r'class="grid"[^>]* y1="([\d.]+)"', chart))
    assert highest > max(float(y) for y in rows)  # above all curves
