"""Procedural scenes: the data that is always there.

A scene is three to six overlapping, textured objects on a textured ground, with the exact visible
part of each. Objects and ground share texture families and sometimes a colour, and no single colour
fills an object: its edge has to be found. Everything is laid out in the unit square: the same index
is the same scene at every resolution, up to the sensor noise.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray

Split = Literal["train", "heldout"]
_Plane = Float32[np.ndarray, "H W"]
_Palette = tuple[tuple[float, ...], tuple[float, ...]]  # two RGB colours, about 0 to 1

_STREAMS = {"train": 0, "heldout": 1}  # part of the seed: the two splits never share a scene
_OBJECTS = (3, 6)
# Smaller objects, as share of the frame, are not targets: two patches of the nano models.
_SMALLEST_SHARE = 2 / 8**2
_APART, _TRIES = 0.35, 8  # distance in RGB to every colour there, and how often it is tried
_THIRDS = (0.0, 1 / 3, 2 / 3)


@dataclasses.dataclass(frozen=True)
class Scene:
    """A picture, its label map (0 is ground, objects count from 1, bottom to top) and the outline
    of each object: a number of OUTLINES."""

    image: UInt8[np.ndarray, "H W 3"]
    labels: UInt8[np.ndarray, "H W"]
    outlines: tuple[int, ...]

    def main_outline(self) -> int | None:
        """The outline of the object of which most is visible; None where there is no object."""
        visible = np.bincount(self.labels.ravel())[1:]
        return self.outlines[int(visible.argmax())] if visible.size else None


def draw(
    index: int, px: int, *, split: Split = "train", seed: int = 0
) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
    """Picture and label map of a `scene`."""
    drawn = scene(index, px, split=split, seed=seed)
    return drawn.image, drawn.labels


def scene(index: int, px: int, *, split: Split = "train", seed: int = 0) -> Scene:
    """A scene of px x px pixels."""
    rng = np.random.default_rng((seed, _STREAMS[split], index))
    ground = _palette(rng)
    rgb_3HW = _colour(rng, ground, px, slice(0, px), slice(0, px))
    labels = np.zeros((px, px), np.uint8)
    palettes, outlines = [ground], []
    count = _whole(rng, *_OBJECTS)
    for label in range(1, count + 1):
        # Later objects lie on top and are smaller, which keeps the lower ones in sight.
        reach = _between(rng, 0.24, 0.46) * (1.0 - 0.4 * label / count)
        x, y = _between(rng, 0.1, 0.9), _between(rng, 0.1, 0.9)
        rows, columns = _window(y, reach, px), _window(x, reach, px)
        inside, outline = _coverage(rng, x, y, reach, px, rows, columns)
        outlines.append(outline)
        palettes.append(_palette(rng, palettes))
        below = rgb_3HW[:, rows, columns]
        below += inside * (_colour(rng, palettes[-1], px, rows, columns) - below)
        labels[rows, columns][inside > 0.5] = label
    labels, kept = _without_tiny(labels, count)
    return Scene(_photograph(rng, rgb_3HW), labels, tuple(outlines[label - 1] for label in kept))


# ------------------------------------------------------------------------------------ outlines


def _coverage(
    rng: np.random.Generator, x: float, y: float, reach: float, px: int, rows: slice, columns: slice
) -> tuple[Float32[np.ndarray, "H W"], int]:
    """Share of each pixel in the window that a random outline around (x, y) covers, and which."""
    centres = _centres(px)
    dx, dy = centres[columns] - x, centres[rows, None] - y
    angle = _between(rng, 0.0, 2 * math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    drawn = _DRAWN[_whole(rng, 0, len(_DRAWN) - 1)]
    outside = drawn(rng, u, v, reach)
    # `outside` is close to a signed distance; one pixel of ramp around zero smooths the edge.
    return np.clip(0.5 - outside * px, 0.0, 1.0), _NUMBERS[drawn]


def _ellipse(rng: np.random.Generator, u: _Plane, v: _Plane, reach: float) -> _Plane:
    flat = _between(rng, 0.45, 1.0)
    return np.sqrt(u * u + (v / flat) ** 2) * flat - reach * flat


def _rectangle(rng: np.random.Generator, u: _Plane, v: _Plane, reach: float) -> _Plane:
    turn = _between(rng, 0.4, 1.1)
    half_u, half_v = reach * math.cos(turn), reach * math.sin(turn)
    return np.maximum(np.abs(u) - half_u, np.abs(v) - half_v)


def _polygon(rng: np.random.Generator, u: _Plane, v: _Plane, reach: float) -> _Plane:
    sides = _whole(rng, 3, 6)
    inner = reach * math.cos(math.pi / sides)
    outside = u - inner
    for k in range(1, sides):
        turn = 2 * math.pi * k / sides
        side = math.cos(turn) * u + math.sin(turn) * v - inner
        np.maximum(outside, side, out=outside)
    return outside


def _star(rng: np.random.Generator, u: _Plane, v: _Plane, reach: float) -> _Plane:
    points, depth = _whole(rng, 4, 7), _between(rng, 0.25, 0.45)
    wave = np.abs(np.arctan2(v, u) * (points / (2 * math.pi)) % 1 - 0.5)
    radius = reach * (1 - depth + 2 * depth * wave)
    # A spike's edge is steep in polar coordinates; 0.6 keeps its ramp about one pixel wide.
    return (np.sqrt(u * u + v * v) - radius) * 0.6


def _blob(rng: np.random.Generator, u: _Plane, v: _Plane, reach: float) -> _Plane:
    theta, phase = np.arctan2(v, u), _between(rng, 0.0, 6.0)
    wave = (np.cos(2 * theta + phase) + 0.7 * np.cos(3 * theta)) / 1.7
    bumps = _between(rng, 0.12, 0.3)
    radius = reach * (1 - bumps + bumps * wave)
    return np.sqrt(u * u + v * v) - radius


def _ring(rng: np.random.Generator, u: _Plane, v: _Plane, reach: float) -> _Plane:
    half_width = reach * _between(rng, 0.22, 0.32)
    distance = np.sqrt(u * u + v * v) - (reach - half_width)
    return np.abs(distance) - half_width


_DRAWN = (_ellipse, _rectangle, _polygon, _star, _blob, _blob, _ring)  # each as often as it is here
_NUMBERS = {each: number for number, each in enumerate(dict.fromkeys(_DRAWN))}
OUTLINES = tuple(each.__name__.removeprefix("_") for each in _NUMBERS)


# ------------------------------------------------------------------------------------ surfaces


def _palette(rng: np.random.Generator, taken: Sequence[_Palette] = ()) -> _Palette:
    """Two colours, apart from those in the picture; sometimes the second is borrowed from it."""
    first = _hue(rng)
    for _ in range(_TRIES):
        if all(math.dist(first, other) > _APART for other, _ in taken):
            break
        first = _hue(rng)
    second = _hue(rng)
    if taken and rng.random() < 0.1:
        second = taken[_whole(rng, 0, len(taken) - 1)][0]
    # Pull the second towards the first by a random amount: from nearly plain to bold.
    pull = _between(rng, 0.4, 0.95)
    return first, tuple(b + pull * (a - b) for a, b in zip(first, second, strict=True))


def _hue(rng: np.random.Generator) -> tuple[float, ...]:
    light, strength, hue = _between(rng, 0.2, 0.85), _between(rng, 0.05, 0.3), rng.random()
    return tuple(light + strength * math.cos(2 * math.pi * (hue + third)) for third in _THIRDS)


def _colour(
    rng: np.random.Generator,
    palette: _Palette,
    px: int,
    rows: slice,
    columns: slice,
) -> Float32[np.ndarray, "3 H W"]:
    """A random texture in the window, as a mixture of the palette's two colours."""
    angle, phase = _between(rng, 0.0, math.pi), _between(rng, 0.0, 6.0)
    x, y = _centres(px)[columns], _centres(px)[rows, None]
    u = math.cos(angle) * x + math.sin(angle) * y
    v = math.cos(angle) * y - math.sin(angle) * x
    kind = _whole(rng, 0, 5)
    if kind == 0:  # gradient
        mix = 0.5 + (u - u.mean()) * _between(rng, 0.8, 2.0)
    elif kind == 1:  # stripes
        mix = 0.5 + 1.5 * np.sin(_cycles(rng, 3.0, 9.0) * u + phase)
    elif kind == 2:  # checks
        cycles = _cycles(rng, 2.0, 6.0)
        mix = 0.5 + 3.0 * np.sin(cycles * u + phase) * np.sin(cycles * v)
    elif kind == 3:  # dots
        cycles = _cycles(rng, 3.0, 7.0)
        mix = 1.8 * (np.cos(cycles * u + phase) + np.cos(cycles * v) - 0.6)
    elif kind == 4:  # grain
        mix = _smooth_noise(rng, px, 28, rows, columns)
    else:  # blotches
        noise = _smooth_noise(rng, px, _whole(rng, 5, 9), rows, columns)
        mix = 0.5 + (noise - 0.5) * _between(rng, 2.0, 8.0)
    np.clip(mix, 0.0, 1.0, mix)
    first, second = np.array(palette, np.float32)[:, :, None, None]
    return first + (second - first) * mix


def _cycles(rng: np.random.Generator, low: float, high: float) -> float:
    """Radians per frame side of a pattern that repeats `low` to `high` times along it."""
    return 2 * math.pi * _between(rng, low, high)


def _smooth_noise(
    rng: np.random.Generator, px: int, cells: int, rows: slice, columns: slice
) -> Float32[np.ndarray, "H W"]:
    """Uniform noise on a lattice of `cells` a side, interpolated: about 0 to 1."""
    weights = _lattice_weights(px, cells)
    lattice = rng.random((cells + 1, cells + 1), np.float32)
    return weights[rows] @ lattice @ weights[columns].T


def _photograph(
    rng: np.random.Generator, rgb_3HW: Float32[np.ndarray, "3 H W"]
) -> UInt8[np.ndarray, "H W 3"]:
    """Uneven light and sensor noise, then eight bits."""
    _, px, _ = rgb_3HW.shape
    slope_x, slope_y = _between(rng, -0.3, 0.3), _between(rng, -0.3, 0.3)
    centres = _centres(px)
    rgb_3HW *= 255 * (1 + slope_x * (centres - 0.5) + slope_y * (centres[:, None] - 0.5))
    rgb_3HW += _between(rng, 2.0, 14.0) * (rng.random((px, px), np.float32) - 0.5)
    return np.ascontiguousarray(np.clip(rgb_3HW, 0.0, 255.0).astype(np.uint8).transpose(1, 2, 0))


# --------------------------------------------------------------------------------------- parts


def _without_tiny(
    labels: UInt8[np.ndarray, "H W"], count: int
) -> tuple[UInt8[np.ndarray, "H W"], list[int]]:
    """Objects of which too little shows become ground; the others are counted again from 1, and
    listed by the labels that they had."""
    shown = np.bincount(labels.ravel(), minlength=count + 1) >= _SMALLEST_SHARE * labels.size
    shown[0] = False
    kept = [int(label) for label in np.flatnonzero(shown)]
    return (np.cumsum(shown) * shown).astype(np.uint8)[labels], kept


@functools.lru_cache(maxsize=8)
def _centres(px: int) -> NDArray[np.float32]:
    return ((np.arange(px) + 0.5) / px).astype(np.float32)


@functools.lru_cache(maxsize=64)
def _lattice_weights(px: int, cells: int) -> NDArray[np.float32]:
    """[px, cells + 1] weights of smoothstep interpolation between lattice points."""
    position = (np.arange(px) + 0.5) / px * cells
    left = np.minimum(position.astype(int), cells - 1)
    part = position - left
    part = part * part * (3 - 2 * part)
    weights = np.zeros((px, cells + 1), np.float32)
    weights[np.arange(px), left] = 1 - part
    weights[np.arange(px), left + 1] = part
    return weights


def _window(centre: float, reach: float, px: int) -> slice:
    """Pixels within `reach` of the centre, two to spare for the smooth edge, cut at the frame."""
    return slice(max(0, int((centre - reach) * px) - 2), min(px, int((centre + reach) * px) + 3))


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    # Several times faster than rng.uniform, and there are a hundred of these in a scene.
    return low + (high - low) * rng.random()


def _whole(rng: np.random.Generator, low: int, high: int) -> int:
    """An integer from low to high, both included."""
    return low + int(rng.random() * (high - low + 1))
