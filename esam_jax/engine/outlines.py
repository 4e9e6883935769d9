"""Masks as the polygons that annotation tools draw with, along the edges of pixels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from esam_jax.ops import regions

_Point = tuple[int, int]
# The sides of a pixel, each with the mask on its right: the neighbour that must be outside, and
# from which corner to which.
_SIDES = (
    ((-1, 0), (0, 0), (1, 0)),
    ((0, 1), (1, 0), (1, 1)),
    ((1, 0), (1, 1), (0, 1)),
    ((0, -1), (0, 1), (0, 0)),
)


def segmentation(rle: Mapping[str, Any]) -> list[list[int]] | dict[str, Any]:
    """COCO polygons that COCO's own rule makes the same mask of; the run lengths where none do.

    A hole has no form in COCO's polygons, so that masks with holes stay run lengths.
    """
    mask = regions.from_rle(rle)
    polygons = _polygons(mask)
    if not polygons:
        return dict(rle)
    height, width = mask.shape
    same = (regions.from_polygons(polygons, height, width) == mask).all()
    return polygons if same else dict(rle)


def _polygons(mask: Bool[np.ndarray, "H W"]) -> list[list[int]] | None:
    """The outlines of the parts of a mask as x, y, x, y, ...; None where one has a hole."""
    polygons = []
    following = _following(mask)
    while following:
        start = next(iter(following))
        outline = _outline(start, following)
        if _twice_area(outline) < 0:
            return None
        polygons.append([side for point in _corners(outline) for side in point])
    return polygons


def _following(mask: Bool[np.ndarray, "H W"]) -> dict[_Point, list[_Point]]:
    """The sides of pixels between inside and outside, by the corner that they leave."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    found: dict[_Point, list[_Point]] = {}
    for (down, right), begin, end in _SIDES:
        height, width = mask.shape
        beyond = padded[1 + down : 1 + down + height, 1 + right : 1 + right + width]
        rows, columns = np.nonzero(inside & ~beyond)
        for y, x in zip(rows.tolist(), columns.tolist(), strict=True):
            corner = (x + begin[0], y + begin[1])
            found.setdefault(corner, []).append((x + end[0], y + end[1]))
    return found


def _outline(start: _Point, following: dict[_Point, list[_Point]]) -> list[_Point]:
    """One closed line from `start`, whose sides are taken out of those that are left."""
    line, before = [start], None
    while True:
        here = line[-1]
        ends = following[here]
        # Where two pixels meet at a corner alone, turning right stays at the pixel it came from.
        chosen = 0 if before is None or len(ends) < 2 else _right(before, here, ends)
        end = ends.pop(chosen)
        if not ends:
            del following[here]
        if end == start and (start not in following or before is not None):
            return line
        before = here
        line.append(end)


def _right(before: _Point, here: _Point, ends: list[_Point]) -> int:
    dx, dy = here[0] - before[0], here[1] - before[1]
    wanted = (here[0] - dy, here[1] + dx)
    return ends.index(wanted) if wanted in ends else 0


def _corners(line: list[_Point]) -> list[_Point]:
    """Without the points on straight lines."""
    count = len(line)
    return [
        (x, y)
        for i, (x, y) in enumerate(line)
        if not (
            line[i - 1][0] == x == line[(i + 1) % count][0]
            or line[i - 1][1] == y == line[(i + 1) % count][1]
        )
    ]


def _twice_area(line: list[_Point]) -> int:
    """Positive for a line that has its inside on the right, downwards being positive."""
    points = np.array(line, np.int64)
    after = np.roll(points, -1, axis=0)
    return int((points[:, 0] * after[:, 1] - after[:, 0] * points[:, 1]).sum())
