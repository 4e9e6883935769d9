"""Masks of a record as arrays of booleans in the frame of their picture."""

import numpy as np

from esam_jax.data.bitmaps import Grid


def masks(record, *indices):
    """[X, H, W], of all without indices; DataError for a broken one."""
    picture, found = record.picture, record.annotation("masks")
    grid = Grid.whole(picture.height, picture.width)
    each = [found.sample(i, grid).dense() for i in indices or range(len(found))]
    return np.stack([np.zeros((picture.height, picture.width), bool), *each])[1:]
