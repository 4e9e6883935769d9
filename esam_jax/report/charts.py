"""Line charts as SVG text, which opens anywhere, years later, without a network or a library."""

import dataclasses
import html
import math
import statistics
from collections.abc import Sequence

WIDTH, HEIGHT = 460, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 34
_LEGEND = 16  # pixels above the curves, where there are several
_COLOURS = ("#2f6db5", "#c8553d", "#3c8a5b", "#8a5aa8", "#b0832c", "#4a8f9c")
_HEADING, _FOOTING = 26, 14  # pixels above and below the chart in a file of its own
_MOST_POINTS = 600  # a chart has no more pixels than that
Number = int | float  # JSON distinguishes them
_LEAST_FACTOR = 4  # between the ends of a logarithmic axis
_REFERENCE = 'stroke="#5d6b7a" stroke-dasharray="4 3"'
_SHORT = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


# Of a file of its own; a page brings its own style.
_STYLE = """
text { font: 11px system-ui, sans-serif; fill: #5d6b7a; }
.title { font-size: 14px; font-weight: 600; fill: #1d2733; }
.grid { stroke: #dde3ea; } .axis, .tick { stroke: #5d6b7a; }
polyline { stroke-width: 1.6; stroke-linejoin: round; }
"""


@dataclasses.dataclass(frozen=True)
class Series:
    """One curve: a value at each of some steps, in order.

    A reference is what the others are compared with: it is dashed and grey. `band` holds the lowest
    and highest value at some steps: the interval of a mean, for example.
    """

    name: str
    points: Sequence[tuple[Number, Number]]
    reference: bool = False
    band: Sequence[tuple[Number, Number, Number]] = ()


def level(name: str, points: Sequence[tuple[Number, Number]]) -> list[Series]:
    """The mean of the finite values, as a horizontal reference; [] where there is none."""
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    if not finite:
        return []
    mean = sum(y for _, y in finite) / len(finite)
    return [Series(name, [(finite[0][0], mean), (finite[-1][0], mean)], reference=True)]


def line_chart(series: Sequence[Series], *, log: bool = False, log_x: bool = False) -> str:
    """An <svg> of all curves on common axes; values that no axis can show are left out.

    `log_x` lays the steps out by their logarithms, and marks those of the curves.
    """
    shown = [
        dataclasses.replace(each, points=_thin(_drawable(each.points, log))) for each in series
    ]
    xs = [x for each in shown for x, _ in each.points]
    ys = [y for each in shown for _, y in each.points]
    ys += [y for each in shown for _, *ends in each.band for y in ends if y > 0 or not log]
    if not xs:
        return ""
    x_ticks = _marked(xs) if log_x else ticks(min(xs), max(xs))
    y_ticks = (log_ticks if log else ticks)(min(ys), max(ys))
    legend, rows = _legend(shown) if len(shown) > 1 else ("", 0)
    top = _TOP + _LEGEND * rows
    # Steps end where the data ends; values get round ticks around them.
    x_axis = _Axis(min(xs), max(xs), _LEFT, WIDTH - _RIGHT, log_x)
    y_axis = _Axis(min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys)), HEIGHT - _BOTTOM, top, log)
    parts = [_grid(x_axis, y_axis, x_ticks, y_ticks)]
    bands = [_band(each, colour, x_axis, y_axis) for each, colour in coloured(shown)]
    parts += [*bands, *(_curve(each, colour, x_axis, y_axis) for each, colour in coloured(shown))]
    parts.append(legend)
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    return f'<svg class="chart" {box} xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'


def document(
    title: str,
    series: Sequence[Series],
    *,
    log: bool = False,
    log_x: bool = False,
    below: str = "updates",
) -> str:
    """A chart as an SVG file of its own, `below` its horizontal axis; "" where nothing is drawn."""
    chart = line_chart(series, log=log, log_x=log_x)
    if not chart:
        return ""
    height = _HEADING + HEIGHT + _FOOTING
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts = (
        f"<style>{_STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text class="title" x="{_LEFT}" y="20">{html.escape(title)}</text>',
        chart.replace("<svg ", f'<svg y="{_HEADING}" ', 1),
        f'<text x="{middle}" y="{height - 8}" text-anchor="middle">{html.escape(below)}</text>',
    )
    box = f'viewBox="0 0 {WIDTH} {height}" width="{2 * WIDTH}" height="{2 * height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>{"".join(parts)}</svg>\n'


def is_skewed(series: Sequence[Series]) -> bool:
    """Whether a logarithmic axis shows more of the curves than a linear one.

    So it is where half of all values would lie in the lowest fifth of a linear axis, as of a loss
    that falls fast at first and slowly for the rest of the run, and where they differ by a factor
    that is worth it. A share that rises towards one keeps its linear axis.
    """
    values = [y for each in series if not each.reference for _, y in each.points]
    values = [y for y in values if math.isfinite(y)]
    if not values or min(values) <= 0 or max(values) < _LEAST_FACTOR * min(values):
        return False
    lowest_fifth = min(values) + (max(values) - min(values)) / 5
    return statistics.median(values) < lowest_fifth


def ticks(low: Number, high: Number) -> list[float]:
    """Four to eight round numbers that hold [low, high] between the first and the last."""
    if high <= low:
        spread = abs(low) * 0.1 or 1.0
        low, high = low - spread, high + spread
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(float(i * step), 12) for i in range(first, last + 1)]


def log_ticks(low: Number, high: Number) -> list[float]:
    """Powers of ten around the range; up to three decades, 1, 2 and 5 times those."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if math.log10(high / low) > 3:
        every = max(1, (last - first) // 6)
        return [10.0**i for i in range(first, last + 1, every)]
    round_numbers = [m * 10.0**i for i in range(first, last + 1) for m in (1, 2, 5)]
    below = max(x for x in round_numbers if x <= low * (1 + 1e-9))
    above = min(x for x in round_numbers if x >= high * (1 - 1e-9))
    return [x for x in round_numbers if below <= x <= above]


def short(value: Number) -> str:
    """A number as it stands beside a tick: 1.5k, 0.02, 3e-05."""
    for size, letter in _SHORT:
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


@dataclasses.dataclass(frozen=True)
class _Axis:
    """Values from `low` to `high` laid out from pixel `start` to pixel `end`."""

    low: Number
    high: Number
    start: Number
    end: Number
    log: bool = False

    def __call__(self, value: Number) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + share * (self.end - self.start), 1)


def coloured(series: Sequence[Series]) -> list[tuple[Series, str]]:
    """Each curve with its colour."""
    return list(zip(series, _COLOURS * len(series), strict=False))


def _marked(xs: Sequence[Number]) -> list[float]:
    """The positions of curves, less those whose labels would touch the one before."""
    low, high = math.log10(min(xs)), math.log10(max(xs))
    kept: list[float] = []
    for x in sorted(map(float, {*xs})):
        if not kept or math.log10(x / kept[-1]) > (high - low) / 8:
            kept.append(x)
    return kept


def _drawable(points: Sequence[tuple[Number, Number]], log: bool) -> list[tuple[Number, Number]]:
    return [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not log)]


def _thin(points: list[tuple[Number, Number]]) -> list[tuple[Number, Number]]:
    """At most that many points: the lowest and the highest of each stretch, in order."""
    if len(points) <= _MOST_POINTS:
        return points
    stretch = math.ceil(2 * len(points) / _MOST_POINTS)
    kept: list[tuple[Number, Number]] = []
    for i in range(0, len(points), stretch):
        part = points[i : i + stretch]
        ends = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
        kept += sorted(ends)
    return kept


def _grid(x_axis: _Axis, y_axis: _Axis, x_ticks: list[float], y_ticks: list[float]) -> str:
    parts = []
    for tick in y_ticks:
        y = y_axis(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{y + 4}" text-anchor="end">{short(tick)}</text>')
    for tick in x_ticks:
        if x_axis.low <= tick <= x_axis.high:
            x, y = x_axis(tick), HEIGHT - _BOTTOM
            parts.append(f'<line class="tick" x1="{x}" x2="{x}" y1="{y}" y2="{y + 4}"/>')
            label = f'<text x="{x}" y="{y + 18}" text-anchor="middle">{short(tick)}</text>'
            parts.append(label)
    y = HEIGHT - _BOTTOM
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
    return "".join(parts)


def _curve(series: Series, colour: str, x_axis: _Axis, y_axis: _Axis) -> str:
    placed = [(x_axis(x), y_axis(y)) for x, y in series.points]
    if not placed:
        return ""
    path = " ".join(f"{x},{y}" for x, y in placed)
    if series.reference:
        return f'<polyline class="reference" {_REFERENCE} fill="none" points="{path}"/>'
    last = f'<circle cx="{placed[-1][0]}" cy="{placed[-1][1]}" r="2.5" fill="{colour}"/>'
    return f'<polyline fill="none" stroke="{colour}" points="{path}"/>{last}'


def _band(series: Series, colour: str, x_axis: _Axis, y_axis: _Axis) -> str:
    """What lies between the lowest and the highest values."""
    lows = [(x_axis(x), y_axis(low)) for x, low, _ in series.band]
    highs = [(x_axis(x), y_axis(high)) for x, _, high in series.band]
    path = " ".join(f"{x},{y}" for x, y in [*lows, *reversed(highs)])
    return f'<polygon fill="{colour}" opacity="0.15" points="{path}"/>' if path else ""


def _legend(series: Sequence[Series]) -> tuple[str, int]:
    """The names above the curves, and how many rows they take."""
    parts, x, row = [], _LEFT + 8, 0
    for each, colour in coloured(series):
        wide = 24 + 6.2 * len(each.name)
        if x + wide > WIDTH - _RIGHT + 10 and x > _LEFT + 8:
            x, row = _LEFT + 8, row + 1
        y = _TOP - 1.5 + _LEGEND * row
        look = _REFERENCE if each.reference else f'stroke="{colour}" stroke-width="3"'
        parts.append(f'<line x1="{x}" x2="{x + 10}" y1="{y}" y2="{y}" {look}/>')
        name = html.escape(each.name)
        parts.append(f'<text x="{x + 14}" y="{y + 3.5}">{name}</text>')
        x += wide
    return "".join(parts), row + 1
