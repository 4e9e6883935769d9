"""Masks as run lengths and polygons (COCO's forms), boxes and overlap. NumPy, not traceable.

Run lengths come from outside and are hostile until parsed. The C decoder of pycocotools 2.0.11
returns uninitialised memory for runs that fall short of the picture, so decoding is done here; the
C code only sees masks that exist and polygons that were checked.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int64

from esam_jax.errors import DataError

MAX_SIDE = 16384
MAX_PIXELS = 64 * 2**20

_BYTES_PER_RUN = 7  # five bits a character: enough for 32 bits, whatever the sign


def to_rle(mask: Bool[np.ndarray, "H W"]) -> dict[str, Any]:
    """COCO's compressed run lengths: {"size": [H, W], "counts": str}, ready for json."""
    from pycocotools import mask as coco_mask  # here, since inference can do without it

    rle: Any = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def to_runs(mask: Bool[np.ndarray, "H W"]) -> dict[str, Any]:
    """Plain run lengths {"size": [H, W], "counts": [int, ...]}, column by column, outside first."""
    flat = mask.ravel(order="F")
    turns = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], turns, [flat.size]])).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


def compress(rle: Mapping[str, Any]) -> dict[str, Any]:
    """Plain run lengths in COCO's compressed form, as `to_rle` gives it."""
    from pycocotools import mask as coco_mask  # here, since inference can do without it

    plain: Any = rle  # the stub leaves this form out
    height, width = rle["size"]
    packed: Any = coco_mask.frPyObjects(plain, height, width)
    return {"size": [height, width], "counts": packed["counts"].decode("ascii")}


def from_rle(rle: Mapping[str, Any]) -> Bool[np.ndarray, "H W"]:
    """The mask of compressed (text) or plain (list) run lengths; column-major in memory.

    Raises DataError unless the runs are integers >= 0 that sum to exactly H * W.
    """
    height, width = _size(rle)
    return fill(rle_runs(rle), height, width)


def fill(runs: Int[np.ndarray, " L"], height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """The mask of checked run lengths; column-major in memory."""
    return np.repeat(np.arange(len(runs)) % 2 > 0, runs).reshape(width, height).T


def from_polygons(polygons: Any, height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """The union of a list of polygons [x0, y0, x1, y1, ...], rasterised by COCO's own rule.

    Raises DataError unless each has three points or more, finite and at most one frame outside.
    """
    return fill(polygon_runs(polygons, height, width), height, width)


def rle_runs(rle: Mapping[str, Any]) -> Int64[np.ndarray, " L"]:
    """Checked run lengths, outside and inside alternating, starting outside; as `from_rle`."""
    height, width = _size(rle)
    counts, pixels = rle.get("counts"), height * width
    if isinstance(counts, str | bytes):
        return text_runs([counts], height, width)[0]
    if isinstance(counts, list | tuple):
        if len(counts) > 2 * pixels or not all(type(run) is int for run in counts):
            raise DataError(f"run lengths must be at most {2 * pixels} integers")
        if any(not 0 <= run <= pixels for run in counts):
            raise DataError(f"run lengths must lie in 0 to {pixels}")
        runs = np.array(counts, np.int64)
    else:
        raise DataError(f"counts is a {type(counts).__name__}, but must be text or a list")
    # Each run is at most `pixels` here, so the sum cannot overflow.
    if runs.sum() != pixels:
        raise DataError(f"run lengths sum to {runs.sum()}, but {height} x {width} is {pixels}")
    return runs


def text_runs(
    texts: Sequence[str | bytes], height: int, width: int
) -> tuple[Int64[np.ndarray, " L"], Int64[np.ndarray, " Q"]]:
    """`rle_runs` of several masks in COCO's compressed form, one after the other, and how many
    each has; all are read at once. DataError, as of the first that is wrong in some way."""
    pixels = height * width
    parts = [_check_text(text, pixels) for text in texts]
    values, ends = _numbers(b"".join(parts))
    last = np.searchsorted(ends, np.cumsum([len(part) for part in parts])) - 1
    lengths = np.diff(last, prepend=-1)
    runs = _summed(values, lengths)
    if runs.min(initial=0) < 0 or runs.max(initial=0) > pixels:
        raise DataError(f"run lengths must lie in 0 to {pixels}")
    # Each run is at most `pixels` here, so the sum cannot overflow.
    sums = np.add.reduceat(runs, last + 1 - lengths) if len(parts) else runs
    if (sums != pixels).any():
        wrong = sums[sums != pixels][0]
        raise DataError(f"run lengths sum to {wrong}, but {height} x {width} is {pixels}")
    return runs, lengths


def polygon_runs(polygons: Any, height: int, width: int) -> Int64[np.ndarray, " L"]:
    """Run lengths of the union of polygons; as `from_polygons`."""
    from pycocotools import mask as coco_mask  # here, since inference can do without it

    height, width = _size({"size": [height, width]})
    if not isinstance(polygons, list | tuple) or not polygons:
        raise DataError(
            "a polygon annotation must be a list of at least one polygon: boxes alone have no mask"
        )
    parts: Any = [_polygon(polygon, height, width) for polygon in polygons]
    return rle_runs(coco_mask.merge(coco_mask.frPyObjects(parts, height, width)))


def mask_box(mask: Bool[np.ndarray, "H W"]) -> tuple[int, int, int, int]:
    """Tight box (x, y, width, height) in pixels; all zero for an empty mask."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    if not columns.size:
        return 0, 0, 0, 0
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1


def rle_box(rle: Mapping[str, Any]) -> list[int]:
    """`mask_box` of COCO's compressed run lengths of our own."""
    from pycocotools import mask as coco_mask  # here, since inference can do without it

    packed: Any = dict(rle)
    return [int(side) for side in coco_mask.toBbox(packed)]


def rle_area(rle: Mapping[str, Any]) -> int:
    """Pixels inside compressed run lengths of our own."""
    from pycocotools import mask as coco_mask  # here, since inference can do without it

    packed: Any = dict(rle)
    return int(coco_mask.area(packed))


def iou(first: Bool[np.ndarray, "H W"], second: Bool[np.ndarray, "H W"]) -> float:
    """Intersection over union; two empty masks agree, so they give 1."""
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 1.0


# ------------------------------------------------------------------------------------- parsing


def _size(rle: Mapping[str, Any]) -> tuple[int, int]:
    size = rle.get("size")
    if (
        not isinstance(size, list | tuple)
        or len(size) != 2
        or not all(type(side) is int and 1 <= side <= MAX_SIDE for side in size)
        or size[0] * size[1] > MAX_PIXELS
    ):
        raise DataError(
            f"mask size is {str(size)[:60]}, but must be [height, width], each 1 to {MAX_SIDE} "
            f"and at most {MAX_PIXELS} pixels together"
        )
    return size[0], size[1]


def _check_text(counts: str | bytes, pixels: int) -> bytes:
    """COCO's compressed run lengths as bytes that end with a number."""
    if len(counts) > 2 * pixels + _BYTES_PER_RUN:
        raise DataError(f"counts has {len(counts)} characters for a mask of {pixels} pixels")
    try:
        text = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError as error:
        raise DataError("counts holds a character outside ASCII") from error
    if not text or (text[-1] - 48) & 0x20:
        raise DataError("counts ends inside a number")
    return text


def _numbers(
    text: bytes,
) -> tuple[Int64[np.ndarray, " L"], Int64[np.ndarray, " L"]]:
    """Numbers of COCO's base 48, five bits and a continuation bit each, and where each ends."""
    digits = np.frombuffer(text, np.uint8) - np.uint8(48)  # what is below 48 becomes large
    if digits.max(initial=0) > 63:
        raise DataError("counts holds a character outside the run-length alphabet")
    ends = np.flatnonzero(digits < 0x20)
    before = np.diff(ends, prepend=-1) - 1  # characters of a number before its last
    longest = int(before.max(initial=0))
    if longest >= _BYTES_PER_RUN:
        raise DataError("counts holds a number longer than 32 bits")
    # The last character has the sign and the highest bits.
    values = (digits[ends].astype(np.int64) ^ 0x10) - 0x10
    for back in range(1, longest + 1):
        longer = np.flatnonzero(before >= back)
        values[longer] = values[longer] << 5 | digits[ends[longer] - back] & 0x1F
    return values, ends


def _summed(
    values: Int64[np.ndarray, " L"], lengths: Int64[np.ndarray, " Q"]
) -> Int64[np.ndarray, " L"]:
    """Run lengths of differences: the first three of a mask are absolute, every later one is
    relative to the run two before it."""
    place = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    runs = values.copy()
    for chain, count in (
        (np.flatnonzero(place & 1), lengths // 2),
        (np.flatnonzero((place & 1 == 0) & (place > 0)), (lengths - 1) // 2),
    ):
        until = np.concatenate([[0], np.cumsum(values[chain])])
        before = until[np.cumsum(count) - count]  # in the masks before this one
        runs[chain] = until[1:] - np.repeat(before, count)
    return runs


def _polygon(polygon: Any, height: int, width: int) -> list[float]:
    try:
        points = np.asarray(polygon, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError("a polygon must be a flat list of numbers") from error
    if points.ndim != 1 or points.size < 6 or points.size % 2:
        raise DataError(f"a polygon has shape {points.shape}, but needs three or more x, y pairs")
    if not np.isfinite(points).all():
        raise DataError("a polygon holds a number that is not finite")
    x, y = points[0::2], points[1::2]
    # A far point makes the C rasteriser walk, and store, every step of the way there.
    if not ((-width <= x) & (x <= 2 * width) & (-height <= y) & (y <= 2 * height)).all():
        raise DataError(f"a polygon leaves its {height} x {width} picture by more than one frame")
    return points.tolist()
