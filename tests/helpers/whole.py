"""Masks of a record as arrays of booleans in the frame of their picture."""

import numpy as np

from esam_jax.data.bitmaps import Grid


def masks(record, *indices):
    """[X, H, W]; DataError for a broken one."""
    picture, found = record.picture, record.annotation("masks")
    grid = Grid.whole(picture.height, picture.width)
    return np.stack([found.sample(index, grid).dense() for index in indices])
