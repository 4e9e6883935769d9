"""What is in the records of a data set, added up: sizes, masks, classes."""

import dataclasses
from collections import Counter
from typing import Any

import numpy as np

from esam_jax.datasets.examine import SHARES, Examined, Masks


@dataclasses.dataclass
class _Pictures:
    heights: Counter[int] = dataclasses.field(default_factory=Counter)
    widths: Counter[int] = dataclasses.field(default_factory=Counter)
    formats: Counter[str] = dataclasses.field(default_factory=Counter)

    def add(self, found: Examined) -> None:
        self.heights[found.height] += 1
        self.widths[found.width] += 1
        self.formats[found.format] += 1

    def to_json(self) -> dict[str, Any]:
        return {
            "height": spread(self.heights),
            "width": spread(self.widths),
            "formats": dict(sorted(self.formats.items())),
        }


@dataclasses.dataclass
class _AllMasks:
    per_picture: Counter[int] = dataclasses.field(default_factory=Counter)
    pixels: int = 0
    overlapping: int = 0
    sums: dict[str, Any] = dataclasses.field(default_factory=dict)

    def add(self, found: Masks, pixels: int) -> None:
        self.per_picture[found.count] += 1
        self.pixels += pixels
        self.overlapping += found.twice > 0
        for field in dataclasses.fields(found):
            value = np.asarray(getattr(found, field.name))
            self.sums[field.name] = self.sums.get(field.name, 0) + value

    def to_json(self) -> dict[str, Any]:
        sums = {name: value.tolist() for name, value in self.sums.items()}
        limits = [f"to {100 * share:g} %" for share in SHARES]
        return {
            "count": sums["count"],
            "per_picture": spread(self.per_picture),
            "pictures_without": self.per_picture[0],
            "sizes": dict(zip(("small", "medium", "large"), sums["sizes"], strict=True)),
            "shares": dict(zip(limits, sums["shares"], strict=True)),
            "empty": sums["empty"],
            "broken": sums["broken"],
            "complete": sums["complete"],
            "ids_repeated": sums["ids_repeated"],
            "pictures_overlapping": self.overlapping,
            "covered": round(sums["covered"] / self.pixels, 4),
            "covered_twice": round(sums["twice"] / self.pixels, 4),
        }


class Totals:
    """Sums over records, whatever their number; the order in which they come changes nothing."""

    def __init__(self) -> None:
        self._pictures, self._masks = _Pictures(), _AllMasks()
        self._labels: Counter[tuple[int, str]] = Counter()
        self._class_pixels: Counter[str] = Counter()
        self._class_pictures: Counter[str] = Counter()
        self._annotators: Counter[int] = Counter()
        self._void = self._unnamed = self._of_classes = 0

    @property
    def masks(self) -> int:
        """How many there are so far."""
        return int(self._masks.sums.get("count", 0))

    def add(self, found: Examined) -> None:
        """One more record that is fine."""
        self._pictures.add(found)
        if found.masks is not None:
            self._masks.add(found.masks, found.height * found.width)
        if found.label is not None:
            self._labels[found.label.index, found.label.name] += 1
        if found.classes is not None:
            self._class_pixels.update(found.classes)
            self._class_pictures.update(found.classes.keys())
            self._void += found.void
            self._unnamed += found.unnamed
            self._of_classes += found.height * found.width
        if found.annotators is not None:
            self._annotators[found.annotators] += 1

    def to_json(self) -> dict[str, Any]:
        """What there is: "pictures", and "masks", "labels", "classes" and "annotators"."""
        known: dict[str, Any] = {}
        if self._pictures.heights:
            known["pictures"] = self._pictures.to_json()
        if self._masks.per_picture:
            known["masks"] = self._masks.to_json()
        if self._labels:
            known["labels"] = {name: count for (_, name), count in sorted(self._labels.items())}
        if self._of_classes:
            known["classes"] = {
                "pictures": dict(sorted(self._class_pictures.items())),
                "shares": {
                    name: round(count / self._of_classes, 4)
                    for name, count in sorted(self._class_pixels.items())
                },
                "void": round(self._void / self._of_classes, 4),
                "without_name": round(self._unnamed / self._of_classes, 4),
            }
        if self._annotators:
            known["annotators"] = spread(self._annotators)
        return known


def spread(counts: Counter[int]) -> dict[str, int]:
    """{"min", "median", "max"} of values that occur so often; the lower of two medians."""
    values = sorted(value for value, count in counts.items() if count)
    until = np.cumsum([counts[value] for value in values])
    middle = int(np.searchsorted(until, (int(until[-1]) + 1) // 2))
    return {"min": values[0], "median": values[middle], "max": values[-1]}
