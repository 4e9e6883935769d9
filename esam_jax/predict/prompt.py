"""One prompt: points, a box, a mask, or several of them together."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from esam_jax.config import SamConfig
from esam_jax.errors import PromptError
from esam_jax.typing import BACKGROUND, BOTTOM_RIGHT, FOREGROUND, PADDING, TOP_LEFT

_LABELS = (BACKGROUND, FOREGROUND)
_MARGIN_PX = 1.0  # what lies outside a picture by less is clipped
# What NumPy raises for ragged lists and huge integers, and PyTorch when it will not give an array.
_NO_ARRAY = (TypeError, ValueError, OverflowError, RuntimeError)


@dataclasses.dataclass(frozen=True, eq=False)
class Prompt:
    """One query, in pixels of the picture as given; every part is optional, not all.

    points: [[x, y], ...]. labels: 1 foreground or 0 background, one a point; all 1 when left out.
    box: [x0, y0, x1, y1]. mask: booleans or 0/1 integers of any size, stretched over the picture;
    or floats, taken as the logits of an earlier answer (`Masks.low_res[query, candidate]`).
    padding: how many tokens that are no point the model sees besides, as segment-anything's label
    -1 makes them. They change SAM's answer, so leave it out unless that answer is wanted; with 0, a
    query may have no other part.

    PromptError names the argument, its value, the rule and the remedy.
    """

    points: Any = None
    labels: Any = None
    box: Any = None
    mask: Any = None
    padding: Any = None

    def __post_init__(self) -> None:
        points = _numbers("points", () if self.points is None else self.points)
        points = points.reshape(0, 2) if points.size == 0 else points
        object.__setattr__(self, "points", _checked_points(points))
        object.__setattr__(self, "labels", _checked_labels(self.labels, len(points)))
        if self.box is not None:
            object.__setattr__(self, "box", _checked_box(_numbers("box", self.box)))
        if self.mask is not None:
            object.__setattr__(self, "mask", _checked_mask(self.mask))
        if self.padding is not None and (type(self.padding) is not int or self.padding < 0):
            raise PromptError.of(
                "padding", f"is {self.padding!r:.80}, but must be an integer from 0"
            )
        parts = (self.box, self.mask, self.padding)
        if len(points) == 0 and all(part is None for part in parts):
            raise PromptError.of("prompt", "is empty: give points, a box or a mask")

    def __repr__(self) -> str:
        parts = {"points": self.points, "labels": self.labels, "box": self.box}
        given = [f"{k}={v.tolist()}" for k, v in parts.items() if v is not None and len(v)]
        if self.mask is not None:
            given.append(f"mask={self.mask.dtype} {list(self.mask.shape)}")
        if self.padding is not None:
            given.append(f"padding={self.padding}")
        return f"Prompt({', '.join(given)})"

    @property
    def tokens(self) -> int:
        """Sparse tokens this prompt takes; SAM appends one "not a point" when there is no box."""
        points = len(self.points) + (self.padding or 0)
        if self.box is not None:
            return points + 2
        return points + 1 if points else 0

    def padded(self, slots: int) -> tuple[np.ndarray, np.ndarray]:
        """Points with box corners [slots, 2] in the picture's frame, and labels int32 [slots].

        Spare slots have label -1 and no meaningful coordinates.
        """
        points, labels = self.points, self.labels
        if self.box is not None:
            points = np.concatenate([points, self.box.reshape(2, 2)])
            labels = np.concatenate([labels, (TOP_LEFT, BOTTOM_RIGHT)])
        spare = slots - len(points)
        points = np.pad(points, ((0, spare), (0, 0)))
        return points, np.pad(labels, (0, spare), constant_values=PADDING).astype(np.int32)

    def checked(
        self, config: SamConfig, height: int, width: int, untrained: Sequence[str] = ()
    ) -> "Prompt":
        """This, `clipped`; PromptError unless it fits the picture and a model of that config.

        `untrained` names parts of the model that hold random values (`ModelFile.untrained`).
        """
        clipped = self.clipped(height, width)
        self._check_model(config, untrained)
        return clipped

    def _check_model(self, config: SamConfig, untrained: Sequence[str]) -> None:
        decoder = config.decoder
        no_background = decoder.background == "none" or "prompt/background" in untrained
        if no_background and (self.labels == BACKGROUND).any():
            raise PromptError.of(
                "labels",
                f"has a {BACKGROUND} (background), which this checkpoint never learned: "
                "leave that point out, or use a checkpoint with background points",
            )
        taken = len(self.points) + (0 if self.box is None else 2)
        if decoder.traits.fixed_slots and taken > decoder.point_slots:
            raise PromptError.of(
                "points",
                f"takes {taken} slots (a box takes 2), but this checkpoint has "
                f"{decoder.point_slots}: give fewer points",
            )
        if self.box is not None and "prompt/top_left" in untrained:
            raise PromptError.of(
                "box",
                "is given, but this checkpoint never learned boxes: give points, or a text "
                "(Sam.text_prompt)",
            )
        if self.mask is None:
            return
        if decoder.mask_prompts == "none":
            raise PromptError.of(
                "mask",
                "is given, but this checkpoint takes no mask prompts: "
                "give its box instead, or use a checkpoint with mask prompts",
            )
        if "prompt/mask" in untrained:
            raise PromptError.of(
                "mask",
                "is given, but this checkpoint never learned mask prompts: "
                "give its box instead, or use a checkpoint with mask prompts",
            )
        side = config.low_res_px
        if self.mask.dtype.kind == "f" and self.mask.shape != (side, side):
            raise PromptError.of(
                "mask",
                f"has float logits of shape {self.mask.shape}, but this model's are "
                f"({side}, {side}): pass logits of an earlier answer, or booleans in any size",
            )

    def clipped(self, height: int, width: int) -> "Prompt":
        """This, for a picture of that size: what lies less than a pixel outside goes to its edge.

        Detectors and clicks end there. PromptError for what lies further outside.
        """
        frame = f"the picture is {width} wide and {height} high: give x, y in its pixels"
        size = np.array([width, height])
        outside = (self.points <= -_MARGIN_PX) | (self.points >= size + _MARGIN_PX)
        for x, y in self.points[outside.any(axis=1)]:
            raise PromptError.of("points", f"has ({x:g}, {y:g}), which lies outside; {frame}")
        # The last place that is a pixel's.
        points, box = np.clip(self.points, 0, np.nextafter(size, 0)), self.box
        if box is not None:
            corners = box.reshape(2, 2)
            clipped = np.clip(corners, 0, size)
            far = (corners <= -_MARGIN_PX) | (corners >= size + _MARGIN_PX)
            if far.any() or (clipped[1] <= clipped[0]).any():
                raise PromptError.of("box", f"is {_text(box)}, which reaches outside; {frame}")
            box = clipped.ravel()
        changed = (points != self.points).any() or (box is not None and (box != self.box).any())
        if not changed:
            return self
        return dataclasses.replace(self, points=points, box=box)


def _numbers(name: str, value: Any) -> np.ndarray:
    """A copy in float64: the prompt stays what was checked when the caller's array changes."""
    try:
        array = np.asarray(value)
        if array.dtype.kind in "cmMSU":  # NumPy would convert them to numbers
            raise TypeError(f"they are {array.dtype}")
        array = np.array(array, np.float64)
    except _NO_ARRAY as error:
        shown = " ".join(repr(value).split())[:80]
        raise PromptError.of(name, f"is {shown}, but must be numbers ({error})") from error
    if not np.isfinite(array).all():
        raise PromptError.of(
            name, f"is {_text(array)}, but must be finite: replace NaN and infinity"
        )
    return array


def _checked_points(points: np.ndarray) -> np.ndarray:
    if points.ndim != 2 or points.shape[1] != 2:
        raise PromptError.of(
            "points", f"has shape {points.shape}, but must be a list of pairs: write [[x, y], ...]"
        )
    return points


def _checked_labels(labels: Any, count: int) -> np.ndarray:
    if labels is None:
        return np.full(count, FOREGROUND, np.int32)
    array = _numbers("labels", labels)
    if array.shape != (count,):
        raise PromptError.of(
            "labels", f"has shape {array.shape} for {count} points: give one label for each point"
        )
    if not np.isin(array, _LABELS).all():
        raise PromptError.of(
            "labels",
            f"is {_text(array)}, but each must be 1 (foreground) or 0 (background)"
            f"{_remedy_for_labels(array)}",
        )
    return array.astype(np.int32)


def _remedy_for_labels(labels: np.ndarray) -> str:
    if np.isin(labels, (TOP_LEFT, BOTTOM_RIGHT)).any():
        return ": labels 2 and 3 are corners, which go to box=[x0, y0, x1, y1]"
    return ": leave points that only fill up out" if (labels == PADDING).any() else ""


def _checked_box(box: np.ndarray) -> np.ndarray:
    if box.shape != (4,):
        raise PromptError.of(
            "box", f"has shape {box.shape}, but must be one box: write [x0, y0, x1, y1]"
        )
    x0, y0, x1, y1 = box
    if x1 <= x0 or y1 <= y0:
        raise PromptError.of(
            "box",
            f"is {_text(box)}, but needs x0 < x1 and y0 < y1: "
            "give the top-left corner, then the bottom-right one "
            "(of x, y, width, height: [x, y, x + width, y + height])",
        )
    return box


def _checked_mask(value: Any) -> np.ndarray:
    try:
        mask = np.asarray(value)
    except _NO_ARRAY as error:
        raise PromptError.of("mask", f"must be one array [height, width] ({error})") from error
    if mask.ndim != 2 or mask.size == 0:
        raise PromptError.of(
            "mask", f"has shape {mask.shape}, but must be one mask: pass [height, width]"
        )
    if mask.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused
            logits = mask.astype(np.float32)
        if not np.isfinite(logits).all():
            raise PromptError.of(
                "mask", "has NaN or infinity, but logits must be finite: replace them"
            )
        return logits
    if mask.dtype.kind not in "bui" or not np.isin(mask, (0, 1)).all():
        raise PromptError.of(
            "mask",
            f"has {mask.dtype} values other than 0 and 1: pass `mask > 0`, or logits as floats",
        )
    return mask.astype(bool)


def _text(array: np.ndarray) -> str:
    return str([float(f"{x:g}") for x in array.ravel()[:8]])
