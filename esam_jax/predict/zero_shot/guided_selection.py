"""Prompts that choose among masks that are there: FastSAM's selection (arXiv:2306.12156, 3.3).

Any model's masks will do, those of everything mode for one. The paper and its authors' program have
different rules, so each function has both:

- Points, "paper": masks with a foreground point and no background point are merged, then closed
  and opened. "code": from the largest mask to the smallest, and from the first point to the last,
  each mask that holds the point is painted (foreground) or erased (background).
- A box, "paper": the mask whose bounding box has the highest IoU with it. "code": the mask whose
  pixels have the highest IoU with it, in whole pixels.
- A text: the mask whose crop fits best (`text.py`); "code" leaves masks of at most 100 pixels out.

The paper names no sizes of its morphology: 3 and 8 pixels are those with which the program cleans
masks before it draws them. Masks of equal area are painted in their order, and of masks that fit a
box or a text equally the first is taken; FastSAM's masks come by falling score.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from esam_jax.errors import PromptError
from esam_jax.ops import regions
from esam_jax.predict.everything import arguments
from esam_jax.predict.zero_shot import given_masks, text
from esam_jax.typing import BACKGROUND, FOREGROUND

Rules = Literal["paper", "code"]
RULES: tuple[Rules, ...] = ("paper", "code")

_CLOSED_PX, _OPENED_PX = 3, 8


def by_points(
    masks: given_masks.Masks,
    points: Any,
    labels: Any = None,
    *,
    rules: str = "paper",
    size: Any = None,
) -> Bool[np.ndarray, "_ _"]:
    """One mask, of those that the points choose; empty where they choose none.

    points: (x, y) in pixels; a point lies in the pixel that it falls into. labels: 1 foreground, 0
    background, all 1 when None; a point with another label does nothing, as in the original.
    size: (height, width) of the picture that points are in, where masks have other sizes (needed,
    too, where there are no masks): as FastSAM's, points are brought to the masks by truncation.
    PromptError for points outside the picture, and other arguments that break a rule.
    """
    arguments.require_one_of("rules", rules, RULES)
    shape, size = _sizes(masks, size)
    xy = _checked_points(points, size)
    labels = _checked_labels(labels, len(xy))
    if shape != size:
        xy = (xy * [shape[1] / size[1], shape[0] / size[0]]).astype(int)
    columns, rows = xy.astype(int).T
    holding, areas = np.zeros((len(masks), len(xy)), bool), np.zeros(len(masks), int)
    for i, mask in enumerate(given_masks.each(masks)):
        holding[i], areas[i] = mask[rows, columns], np.count_nonzero(mask)
    chosen = np.zeros(shape, bool)
    for i, painted in (_painted if rules == "code" else _hit)(holding, labels, areas):
        chosen[given_masks.of(masks[i], f"masks[{i}]")] = painted
    return chosen if rules == "code" else cleaned(chosen)


def by_boxes(
    masks: given_masks.Masks,
    boxes: Any,
    *,
    rules: str = "paper",
    size: Any = None,
) -> list[int | None]:
    """For each box (x0, y0, x1, y1) the place of its mask; None where there is no mask.

    By the paper's rule also None where no bounding box overlaps it: the program takes the first
    mask then. It returns each mask once and in their order, whatever that of the boxes. What
    reaches outside the picture is cut. size: as for `by_points`. PromptError for a box without a
    pixel.
    """
    arguments.require_one_of("rules", rules, RULES)
    shape, size = _sizes(masks, size)
    if not isinstance(boxes, Sequence | np.ndarray) or not len(boxes):
        raise PromptError.of(
            "boxes", f"is {boxes!r:.80}, but at least one is needed: [[x0, y0, x1, y1]]"
        )
    exact = [_checked_box(f"boxes[{i}]", box, size) for i, box in enumerate(boxes)]
    scale = np.array([shape[1] / size[1], shape[0] / size[0]] * 2)
    if rules == "paper":
        score = _box_overlaps
        asked = [_cut(box * scale, shape) for box in exact]
    else:
        score = _pixel_overlaps
        asked = [_whole(f"boxes[{i}]", box, scale, shape) for i, box in enumerate(exact)]
    scores = np.zeros((len(masks), len(asked)), np.float32)
    for i, mask in enumerate(given_masks.each(masks)):
        scores[i] = score(mask, np.stack(asked))
    if not len(masks):
        return [None] * len(asked)
    best = scores.argmax(0)
    none = (scores.max(0) <= 0) & (rules == "paper")
    return [None if absent else int(i) for i, absent in zip(best, none, strict=True)]


def by_text(
    masks: given_masks.Masks,
    picture: Any,
    words: str,
    clip: Any,
    *,
    rules: str = "paper",
) -> int | None:
    """The place of the mask whose picture in FastSAM's white frame fits the words best.

    clip: what `esam_jax.load_clip` returns, or a function of crops and texts. None where there is
    no mask, or by the program's rule none of more than 100 pixels. The program counts wrongly where
    it has left masks out, and may return another mask than the one that it found: here it is that
    one. It also exchanges red and blue in what CLIP sees, which is not done here either. Errors as
    for `text.ranked`.
    """
    arguments.require_one_of("rules", rules, RULES)
    least = text.MIN_AREA_PX if rules == "code" else 0
    found = text.ranked(picture, masks, words, clip=clip, min_area=least)
    return int(found.ranked()[0]) if len(found.scored) else None


def cleaned(
    mask: Bool[np.ndarray, "H W"], closed_px: int = _CLOSED_PX, opened_px: int = _OPENED_PX
) -> Bool[np.ndarray, "H W"]:
    """The mask closed, then opened by squares; only closed where opening would leave nothing.

    What lies outside the picture is like its edge, so that a mask at the edge stays there.
    """
    pad = closed_px + opened_px
    framed = np.pad(mask, pad, mode="edge")
    framed = ndimage.binary_closing(framed, np.ones((closed_px, closed_px)))
    opened = ndimage.binary_opening(framed, np.ones((opened_px, opened_px)))
    inside = (slice(pad, -pad), slice(pad, -pad))
    return opened[inside] if opened[inside].any() else framed[inside]


# -------------------------------------------------------------------------------------- points


def _painted(
    holding: Bool[np.ndarray, "X P"], labels: np.ndarray, areas: np.ndarray
) -> list[tuple[int, bool]]:
    """Masks in the order of painting, and whether the last word on each is foreground."""
    found = []
    for i in np.argsort(-areas, kind="stable").tolist():
        said = labels[holding[i]]
        said = said[np.isin(said, (BACKGROUND, FOREGROUND))]
        if len(said):
            found.append((i, bool(said[-1] == FOREGROUND)))
    return found


def _hit(
    holding: Bool[np.ndarray, "X P"], labels: np.ndarray, areas: np.ndarray
) -> list[tuple[int, bool]]:
    """Masks that are merged."""
    wanted = holding[:, labels == FOREGROUND].any(1) & ~holding[:, labels == BACKGROUND].any(1)
    return [(i, True) for i in np.flatnonzero(wanted).tolist()]


def _checked_points(points: Any, size: tuple[int, int]) -> Float[np.ndarray, "P 2"]:
    try:
        xy = np.asarray(points, np.float64)
    except (TypeError, ValueError) as error:
        raise PromptError.of("points", f"must be a list of [x, y] ({error})") from error
    if xy.ndim != 2 or xy.shape[1] != 2 or not len(xy):
        raise PromptError.of("points", f"has shape {xy.shape}, but must be a list of [x, y]")
    height, width = size
    for x, y in xy.tolist():
        if not (0 <= x < width and 0 <= y < height):
            raise PromptError.of(
                "points",
                f"has ({x:g}, {y:g}), which lies outside; the picture is {width} wide and "
                f"{height} high",
            )
    return xy


def _checked_labels(labels: Any, count: int) -> np.ndarray:
    try:
        found = np.ones(count, int) if labels is None else np.asarray(labels, np.float64)
    except (TypeError, ValueError) as error:
        raise PromptError.of("labels", f"must be one number for each point ({error})") from error
    if found.shape != (count,) or not np.isfinite(found).all():
        raise PromptError.of(
            "labels",
            f"has shape {found.shape}, but must have one finite number for each of {count} points",
        )
    return found


# --------------------------------------------------------------------------------------- boxes


def _checked_box(name: str, box: Any, size: tuple[int, int]) -> Float[np.ndarray, " 4"]:
    try:
        found = np.asarray(box, np.float64)
    except (TypeError, ValueError) as error:
        raise PromptError.of(name, f"must be [x0, y0, x1, y1] ({error})") from error
    if found.shape != (4,) or not np.isfinite(found).all():
        raise PromptError.of(name, f"is {box!r:.80}, but must be [x0, y0, x1, y1], all finite")
    x0, y0, x1, y1 = found.tolist()
    height, width = size
    if not (x0 < x1 and y0 < y1 and x0 < width and y0 < height and x1 > 0 and y1 > 0):
        raise PromptError.of(
            name,
            f"is {found.tolist()}, but needs x0 < x1 and y0 < y1, and a part in the picture, which "
            f"is {width} wide and {height} high",
        )
    return found


def _cut(box: Float[np.ndarray, " 4"], shape: tuple[int, int]) -> Float[np.ndarray, " 4"]:
    return np.clip(box, 0, [shape[1], shape[0]] * 2)


def _whole(
    name: str, box: Float[np.ndarray, " 4"], scale: np.ndarray, shape: tuple[int, int]
) -> Float[np.ndarray, " 4"]:
    """In pixels of the masks: rounded, or truncated where the masks have another size."""
    whole = np.trunc(box * scale) if (scale != 1).any() else np.rint(box)
    cut = _cut(whole, shape)
    if not (cut[0] < cut[2] and cut[1] < cut[3]):
        raise PromptError.of(
            name,
            f"is {box.tolist()}, which has no pixel of the masks once it is rounded: enlarge it, "
            'or choose the rules "paper"',
        )
    return cut


def _box_overlaps(
    mask: Bool[np.ndarray, "H W"], boxes: Float[np.ndarray, "Q 4"]
) -> Float[np.ndarray, " Q"]:
    """IoU of boxes with the mask's bounding box."""
    x, y, width, height = regions.mask_box(mask)
    across = np.minimum(boxes[:, 2], x + width) - np.maximum(boxes[:, 0], x)
    down = np.minimum(boxes[:, 3], y + height) - np.maximum(boxes[:, 1], y)
    shared = np.maximum(across, 0) * np.maximum(down, 0)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return shared / (areas + width * height - shared)


def _pixel_overlaps(
    mask: Bool[np.ndarray, "H W"], boxes: Float[np.ndarray, "Q 4"]
) -> Float[np.ndarray, " Q"]:
    """IoU of boxes with the mask's pixels; quotients in float32, as the original's."""
    area, corners = np.count_nonzero(mask), boxes.astype(int)
    inside = np.array([np.count_nonzero(mask[y0:y1, x0:x1]) for x0, y0, x1, y1 in corners])
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    return inside.astype(np.float32) / (areas + area - inside).astype(np.float32)


def _sizes(masks: given_masks.Masks, size: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of the masks, and of the picture that prompts are in."""
    shape = given_masks.size(masks) or size
    if shape is None:
        raise PromptError.of(
            "size", "is None, but there is no mask that has one: give the picture's"
        )
    if size is None:
        return shape, shape
    if np.shape(size) != (2,) or not all(isinstance(side, int | np.integer) for side in size):
        raise PromptError.of("size", f"is {size!r:.80}, but must be (height, width) in pixels")
    return shape, (int(size[0]), int(size[1]))
