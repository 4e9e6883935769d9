"""Saliency maps beside the truth: MAE, F-beta at 256 levels, S-measure.

F-beta is that of Achanta et al. (CVPR 2009), with beta^2 = 0.3; S-measure that of Fan et al. (ICCV
2017), with alpha = 0.5. A map is rounded to 8 bits first, as the files of every benchmark are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8

BETA2 = 0.3
LEVELS = 256
_TINY = np.finfo(np.float64).eps


def of_picture(found: Float[np.ndarray, "H W"], truth: Bool[np.ndarray, "H W"]) -> dict[str, Any]:
    """{"mae", "s_measure", "hits", "found", "truth"} of a map from 0 to 1.

    `hits` and `found` have, for each of the 256 levels from 0, the pixels of that level or more: of
    the truth, and in all. `truth` is the pixels of the truth.
    """
    levels = np.rint(found * (LEVELS - 1)).astype(np.uint8)
    values = levels / (LEVELS - 1)
    return {
        "mae": float(np.abs(values - truth).mean()),
        "s_measure": s_measure(values, truth),
        "hits": _at_least(levels[truth]).tolist(),
        "found": _at_least(levels.ravel()).tolist(),
        "truth": int(truth.sum()),
    }


def summary(pictures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{"mae", "max_f", "mean_f", "threshold", "s_measure"} of `of_picture` for each of them.

    The curve of F is that of the mean precision and the mean recall of all pictures at each level:
    `max_f` its highest value, at `threshold` (from 0 to 1), `mean_f` its mean.
    """
    curves = np.array([curve(each) for each in pictures])
    precision, recall = curves.mean(0)
    total = BETA2 * precision + recall
    f = (1 + BETA2) * precision * recall / np.where(total > 0, total, 1)
    return {
        "mae": float(np.mean([each["mae"] for each in pictures])),
        "max_f": float(f.max()),
        "mean_f": float(f.mean()),
        "threshold": float(f.argmax() / (LEVELS - 1)),
        "s_measure": float(np.mean([each["s_measure"] for each in pictures])),
    }


def curve(picture: Mapping[str, Any]) -> Float[np.ndarray, "2 256"]:
    """Precision and recall at each level, 0 of nothing."""
    hits, found = np.array(picture["hits"], float), np.array(picture["found"], float)
    return np.stack([hits / np.maximum(found, 1), hits / max(picture["truth"], 1)])


def _at_least(levels: UInt8[np.ndarray, " X"]) -> Int64[np.ndarray, "256"]:
    return np.bincount(levels, minlength=LEVELS)[::-1].cumsum()[::-1]


# ---------------------------------------------------------------------------------- S-measure


def s_measure(found: Float[np.ndarray, "H W"], truth: Bool[np.ndarray, "H W"]) -> float:
    """How alike the structure of a map and the truth are: half by objects, half by regions."""
    share = float(truth.mean())
    if share == 0:
        return 1 - float(found.mean())
    if share == 1:
        return float(found.mean())
    objects = share * _object(found[truth]) + (1 - share) * _object(1 - found[~truth])
    return max(0.0, (objects + _regions(found, truth)) / 2)


def _object(values: Float[np.ndarray, " X"]) -> float:
    """The mean of the values that should be 1, less for those that are not equal."""
    mean = float(values.mean())
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + spread + _TINY)


def _regions(found: Float[np.ndarray, "H W"], truth: Bool[np.ndarray, "H W"]) -> float:
    """Likeness of the four rectangles that meet at the centroid of the truth, by their areas."""
    rows, columns = np.nonzero(truth)
    height, width = truth.shape
    # Rounded half up, and one further, as the authors' code counts from 1 in MATLAB.
    y, x = (
        min(int(each.mean() + 0.5) + 1, side) for each, side in ((rows, height), (columns, width))
    )
    total = 0.0
    for down in (slice(0, y), slice(y, height)):
        for across in (slice(0, x), slice(x, width)):
            part = truth[down, across]
            if part.size:
                total += part.size / truth.size * _alike(found[down, across], part.astype(float))
    return total


def _alike(one: Float[np.ndarray, "H W"], other: Float[np.ndarray, "H W"]) -> float:
    """Structural similarity of two rectangles, without constants."""
    x, y, count = one.mean(), other.mean(), max(one.size - 1, 1)
    variances = (((one - x) ** 2).sum() + ((other - y) ** 2).sum()) / count
    covariance = ((one - x) * (other - y)).sum() / count
    upper, lower = 4 * x * y * covariance, (x**2 + y**2) * variances
    if upper != 0:
        return float(upper / (lower + _TINY))
    return 1.0 if lower == 0 else 0.0
