"""Masks of a view, the obvious way: each decoded in full, then put on the grid, then packed."""

import numpy as np

from esam_jax.ops import regions
from esam_jax.typing import BOTTOM_RIGHT, FOREGROUND, PADDING, PADDING_XY, TOP_LEFT


def on_grid(segmentation, height, width, rows, columns):
    """[Y, X] of polygons or run lengths."""
    if isinstance(segmentation, dict):
        mask = regions.from_rle(segmentation)
    else:
        mask = regions.from_polygons(segmentation, height, width)
    # Run lengths decode column by column, so columns are picked first.
    return mask.T.take(columns, 0).take(rows, 1).T


def first_prompt(rng, mask, box_noise, box_noise_max_px):
    """`prompts.first_prompt` of a mask of booleans."""
    if rng.random() < 0.5:
        inside = np.flatnonzero(mask)
        y, x = divmod(int(inside[rng.integers(inside.size)]), mask.shape[1])
        points = np.array([[x, y], [PADDING_XY, PADDING_XY]], np.float32)
        return points, np.array([FOREGROUND, PADDING], np.int32)
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    box = np.array([columns[0], rows[0], columns[-1], rows[-1]], np.float32)
    sides = np.tile(box[2:] - box[:2] + 1, 2)
    noise = rng.normal(size=4) * box_noise * sides
    noise = np.clip(noise, -box_noise_max_px, box_noise_max_px).astype(np.float32)
    frame = np.array([mask.shape[1] - 1, mask.shape[0] - 1], np.float32)
    corners = np.clip((box + noise).reshape(2, 2), 0, frame)
    return np.sort(corners, axis=0), np.array([TOP_LEFT, BOTTOM_RIGHT], np.int32)


def view(segmentations, height, width, rows, columns, config, rng, at_once=8):
    """Packed masks, points and labels of `prompted.view`; some masks are decoded at a time."""
    px, order = config.image_px, rng.permutation(len(segmentations))
    largest, chosen = config.max_area * len(rows) * len(columns), []
    for start in range(0, len(order), at_once):
        if len(chosen) >= config.masks:
            break
        for index in order[start : start + at_once]:
            mask = on_grid(segmentations[index], height, width, rows, columns)
            if max(config.min_area_px, 1) <= np.count_nonzero(mask) <= largest:
                chosen.append(mask)
    packed = np.zeros((config.masks, px, px // 8), np.uint8)
    points = np.zeros((config.masks, 2, 2), np.float32)
    labels = np.full((config.masks, 2), PADDING, np.int32)
    frame = np.zeros((px, px), bool)
    for slot, mask in enumerate(chosen[: config.masks]):
        frame[: len(rows), : len(columns)] = mask
        packed[slot] = np.packbits(frame, axis=-1)
        noise = (config.box_noise, config.box_noise_max_px)
        points[slot], labels[slot] = first_prompt(rng, mask, *noise)
    return packed, points, labels
