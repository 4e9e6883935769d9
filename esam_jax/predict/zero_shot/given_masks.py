"""Masks as callers have them, one at a time at full size: records, run lengths or arrays."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from esam_jax.errors import DataError
from esam_jax.ops import regions

# Records of everything mode, of any model; masks as COCO's run lengths; or boolean arrays.
Masks = Sequence[Any] | Bool[np.ndarray, "_ _ _"]


def size(masks: Any) -> tuple[int, int] | None:
    """Height and width, as the first mask has them; None of an empty list.

    DataError for what is no list, one mask alone among them.
    """
    if not isinstance(masks, Sequence | np.ndarray):
        raise DataError(
            f"masks is a {type(masks).__name__}, but must be a list of masks, or a boolean array "
            "[masks, height, width]: put a single mask in brackets"
        )
    if isinstance(masks, np.ndarray) and masks.ndim == 3:
        _, height, width = masks.shape
    elif len(masks):
        height, width = of(masks[0], "masks[0]").shape
    else:
        return None
    return height, width


def each(masks: Masks) -> Iterator[Bool[np.ndarray, "H W"]]:
    """Every mask; DataError names the first that is no mask, or has another size than `size`."""
    wanted = size(masks)
    for i, given in enumerate(masks):
        mask = of(given, f"masks[{i}]")
        if mask.shape != wanted:
            raise DataError(
                f"masks[{i}] has shape {mask.shape}, but must have {wanted} like the first one"
            )
        yield mask


def of(given: Any, name: str) -> Bool[np.ndarray, "H W"]:
    """One mask; DataError, which calls it `name`, for what is none."""
    mask = given["segmentation"] if _has(given, "segmentation") else given
    if _has(mask, "counts"):
        return regions.from_rle(mask)
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype != bool or not mask.size:
        about = f"a {type(mask).__name__}"
        if isinstance(mask, np.ndarray):
            about = f"an array of {mask.dtype} {mask.shape}"
        raise DataError(
            f"{name} is {about}, but must be a boolean array [height, width], run lengths of "
            "COCO's, or a record that has one of them as its segmentation"
        )
    return mask


def _has(given: Any, key: str) -> bool:
    return isinstance(given, Mapping) and key in given
