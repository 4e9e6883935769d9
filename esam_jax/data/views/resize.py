"""Resizing pictures on the host, as each family of models was trained to see them."""

import numpy as np
from jaxtyping import Float32, Integer, UInt8
from PIL import Image

_ROWS_AT_ONCE = 8  # so few that a picture's floats stay in the processor's cache


def nearest(size: int, new_size: int) -> Integer[np.ndarray, " X"]:
    """Which of `size` pixels the centre of each new one falls on."""
    return (2 * np.arange(new_size) + 1) * size // (2 * new_size)


def antialiased(
    image: UInt8[np.ndarray, "H W 3"], height: int, width: int
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Pillow's bilinear, whose triangle widens as the picture shrinks."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def two_taps(
    image: UInt8[np.ndarray, "H W 3"], height: int, width: int
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Bilinear between two neighbours, half-pixel, no antialias: `ops.images.stretch`, rounded."""
    top, bottom, down = _taps(image.shape[0], height)
    left, right, across = _taps(image.shape[1], width)
    # Colours as columns of their own: gathering single numbers is what NumPy does fast.
    left, right = ((3 * x[:, None] + np.arange(3)).ravel() for x in (left, right))
    across, down, flat = np.repeat(across, 3), down[:, None], image.reshape(len(image), -1)
    resized = np.empty((height, width * 3), np.uint8)
    # Numbers in buffers that are used again and again stay in the processor's cache.
    between, lower = np.empty((2, _ROWS_AT_ONCE, flat.shape[1]), np.float32)
    near, far = np.empty((2, _ROWS_AT_ONCE, width * 3), np.float32)
    for first in range(0, height, _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        count = len(top[rows])
        _mix(flat[top[rows]], flat[bottom[rows]], down[rows], between[:count], lower[:count])
        # The indices are known to be good; "raise" would copy what it takes once more.
        between[:count].take(left, 1, near[:count], "clip")
        between[:count].take(right, 1, far[:count], "clip")
        _mix(near[:count], far[:count], across, near[:count], far[:count])
        resized[rows] = np.rint(near[:count], near[:count])
    return resized.reshape(height, width, 3)


def _mix(
    one: np.ndarray,
    other: np.ndarray,
    share: Float32[np.ndarray, "..."],
    mixed: Float32[np.ndarray, "Y X"],
    spare: Float32[np.ndarray, "Y X"],
) -> None:
    """`mixed` becomes one + (other - one) * share; `spare` is overwritten."""
    mixed[:], spare[:] = one, other
    spare -= mixed
    spare *= share
    mixed += spare


def _taps(
    size: int, new_size: int
) -> tuple[Integer[np.ndarray, " X"], Integer[np.ndarray, " X"], Float32[np.ndarray, " X"]]:
    """For each new pixel the two of `size` around its centre, and the share of the second."""
    centre = np.maximum((np.arange(new_size) + 0.5) * (size / new_size) - 0.5, 0)
    first = np.minimum(centre.astype(int), size - 1)
    return first, np.minimum(first + 1, size - 1), (centre - first).astype(np.float32)
