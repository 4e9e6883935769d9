"""Accuracy of each class, and which classes are taken for which others."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

TOPS = (1, 5)
_CONFUSIONS = 20  # pairs in a result


def table(
    truth: Sequence[str], ranks: Sequence[int], first: Sequence[str | None]
) -> dict[str, Any]:
    """Of pictures whose class is `truth`, at a rank from 0, and which are taken for `first`.

    {"top1", "top5": shares of the pictures, "class_mean_top1": the mean over classes, "classes":
    {name: {"images", "top1", "top5"}}, "confusions": [{"class", "taken_for", "images"}], the most
    frequent first}. Nothing of no picture.
    """
    if not truth:
        return {}
    by_class: dict[str, list[int]] = defaultdict(list)
    for name, rank in zip(truth, ranks, strict=True):
        by_class[name].append(rank)
    classes = {
        name: {"images": len(found), **_shares(found)} for name, found in sorted(by_class.items())
    }
    pairs = zip(truth, first, strict=True)
    wrong = Counter((a, b) for a, b in pairs if b is not None and a != b)
    ordered = sorted(wrong.items(), key=lambda each: (-each[1], each[0]))
    return {
        **_shares(ranks),
        "class_mean_top1": round(float(np.mean([x["top1"] for x in classes.values()])), 6),
        "classes": classes,
        "confusions": [
            {"class": a, "taken_for": b, "images": count} for (a, b), count in ordered[:_CONFUSIONS]
        ],
    }


def _shares(ranks: Sequence[int]) -> dict[str, float]:
    return {f"top{most}": round(sum(x < most for x in ranks) / len(ranks), 6) for most in TOPS}
