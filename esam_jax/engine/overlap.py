"""How much masks overlap each other, and which of two sets belong together."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from esam_jax.ops import regions


def packed(runs: Int64[np.ndarray, " L"], height: int, width: int) -> dict[str, Any]:
    """Checked run lengths in COCO's compressed form."""
    return regions.compress({"size": [height, width], "counts": runs.tolist()})


def ious(
    some: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]
) -> Float[np.ndarray, "X _"]:
    """IoU of each with each other; both in compressed run lengths of our own, of one size."""
    return _compared(some, others, crowd=False)


def shares(
    some: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]
) -> Float[np.ndarray, "X _"]:
    """Of the pixels of each, the share that lies in each other."""
    return _compared(some, others, crowd=True)


def _compared(some: Sequence[Any], others: Sequence[Any], *, crowd: bool) -> Any:
    from pycocotools import mask as coco_mask  # here, since inference can do without it

    if not some or not others:
        return np.zeros((len(some), len(others)))
    # In a crowd COCO divides by the pixels of the detection alone.
    found: Any = coco_mask.iou([*some], [*others], [int(crowd)] * len(others))
    return np.asarray(found, np.float64).reshape(len(some), len(others))


def pairs(iou: Float[np.ndarray, "X _"], least: float) -> list[tuple[int, int]]:
    """Rows with columns whose IoU is `least` or more: the best pairs first, each of both once."""
    order = np.argsort(-iou, axis=None, kind="stable")
    rows, columns = np.unravel_index(order, iou.shape)
    found: list[tuple[int, int]] = []
    free_rows, free_columns = np.ones(iou.shape[0], bool), np.ones(iou.shape[1], bool)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if iou[row, column] < least:
            break
        if free_rows[row] and free_columns[column]:
            found.append((row, column))
            free_rows[row] = free_columns[column] = False
    return found


def union(masks: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """One mask of all, which have one size; None of none."""
    from pycocotools import mask as coco_mask  # here, since inference can do without it

    if not masks:
        return None
    joined: Any = coco_mask.merge([*masks])  # type: ignore[arg-type]  the stub wants its own type
    return {"size": [int(side) for side in joined["size"]], "counts": joined["counts"].decode()}
