"""How an argument of the mask generator is refused: by name, with its value and the rule."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from esam_jax.errors import PromptError

# Each layer has four times the crops of the one before, half as wide: 4 make 341, and of a picture
# of 16,384 pixels the smallest are 1024 wide, which is a model's input. Smaller ones show no more.
_MOST_LAYERS = 4


def require_whole(least: int, values: Mapping[str, Any]) -> None:
    """PromptError unless each is an integer from `least`."""
    for name, value in values.items():
        if not isinstance(value, int | np.integer) or value < least:
            raise PromptError.of(name, f"is {value!r}, but must be an integer from {least}")


def require_layers(name: str, value: Any) -> None:
    """PromptError unless it is a number of layers of crops that a picture may have."""
    require_whole(0, {name: value})
    if value > _MOST_LAYERS:
        crops = sum(4**layer for layer in range(_MOST_LAYERS + 1))
        raise PromptError.of(
            name,
            f"is {value!r:.80}, but must be at most {_MOST_LAYERS}, with {crops} crops of each "
            "picture: cut larger pictures up before",
        )


def require_finite(values: Mapping[str, Any]) -> None:
    """PromptError unless each is a finite number."""
    for name, value in values.items():
        number = isinstance(value, int | float | np.integer | np.floating)
        if not number or not np.isfinite(value):
            raise PromptError.of(name, f"is {value!r:.80}, but must be a finite number")


def require_between(least: float, most: float, values: Mapping[str, Any]) -> None:
    """PromptError unless each is a number from `least` to `most`."""
    require_finite(values)
    for name, value in values.items():
        if not least <= value <= most:
            raise PromptError.of(name, f"is {value!r}, but must be from {least:g} to {most:g}")


def require_one_of(name: str, value: Any, choices: Collection[str]) -> None:
    """PromptError unless it is one of the choices."""
    if value not in choices:
        raise PromptError.of(name, f"is {value!r}, but must be one of {tuple(choices)}")


def checked_grids(given: Any, crop_layers: int) -> list[Float[np.ndarray, "X 2"]]:
    """The point grids of a caller's own: one for the picture and one for each layer of crops."""
    found = [_checked_grid(grid) for grid in given]
    if len(found) <= crop_layers:
        raise PromptError.of(
            "point_grids",
            f"has {len(found)} grids for {crop_layers} layers of crops and the picture itself: "
            "give one for each",
        )
    return found


def _checked_grid(grid: Any) -> Float[np.ndarray, "X 2"]:
    rule = "must hold arrays [N, 2] of (x, y), each from 0 to below 1"
    try:
        array = np.asarray(grid, np.float64)
    except (TypeError, ValueError) as error:
        raise PromptError.of("point_grids", f"{rule} ({error})") from error
    if array.ndim != 2 or array.shape[1] != 2 or not ((array >= 0) & (array < 1)).all():
        raise PromptError.of("point_grids", rule)
    if not len(array):
        raise PromptError.of("point_grids", "has an empty grid: give at least one point")
    return array
