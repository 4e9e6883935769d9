"""Views for promptable training: a picture, some of its masks, a first prompt for each."""

import numpy as np

from esam_jax.config import PromptedConfig
from esam_jax.data import prompts
from esam_jax.data.bitmaps import Bitmap, Grid
from esam_jax.data.mask_sets import SoundMasks
from esam_jax.data.records import Record
from esam_jax.data.views import augment, draws, framed
from esam_jax.typing import PADDING


def shapes(config: PromptedConfig) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of every array of a view, without its batch axis."""
    px, slots = config.image_px, config.masks
    return {
        "image": ((px, px, 3), np.dtype(np.uint8)),
        "masks": ((slots, px, px // 8), np.dtype(np.uint8)),
        "points": ((slots, 2, 2), np.dtype(np.float32)),
        "labels": ((slots, 2), np.dtype(np.int32)),
        "valid": ((slots,), np.dtype(np.float32)),
    }


def empty_reason(config: PromptedConfig) -> str:
    """What a record without a view lacks, with the remedy."""
    return (
        f"no usable mask: widen data.view.min_area_px={config.min_area_px} and "
        f"data.view.max_area={config.max_area}, or choose data with masks of that size"
    )


def view(
    record: Record, config: PromptedConfig, rng: np.random.Generator
) -> dict[str, np.ndarray] | None:
    """The complete picture, up to `config.masks` masks in its frame and a first prompt for each.

    {"image": uint8 [p, p, 3], "masks": packed uint8 [Q, p, p // 8], "points": float32 [Q, 2, 2]
    (x, y in pixels of the p x p input), "labels": int32 [Q, 2], "valid": float32 [Q]}. Slots
    without a mask are zero, labelled as padding. None when no mask of the record is of a usable
    area; DataError when every one is broken.
    """
    picture = record.picture
    plain = framed.fitted(picture.height, picture.width, config)
    flip = draws.flips(rng, config.flip)
    cuts = [plain]
    if config.jitter is not None:
        size = picture.height, picture.width
        cut = augment.draw_jitter(rng, *size, config.image_px, config.fit, config.jitter)
        cuts.insert(0, cut)  # where nothing usable is left in it, the complete picture is shown
    for cut in cuts:
        columns = cut.columns()
        grid = Grid(picture.height, picture.width, cut.rows(), columns[::-1] if flip else columns)
        prompted = masks_and_prompts(record, grid, config, rng)
        if prompted is not None:
            image = picture.rgb()
            if config.colour:
                image = augment.recoloured(rng, image, config.colour)
            return {"image": framed.image(image, cut, config, flip), **prompted}
    return None


def masks_and_prompts(
    record: Record, grid: Grid, config: PromptedConfig, rng: np.random.Generator
) -> dict[str, np.ndarray] | None:
    """All of a view but its image; the grid lies in the top-left corner of the input."""
    px, slots = config.image_px, config.masks
    chosen = _usable_masks(rng, record, grid, config)
    if not chosen:
        return None
    packed = np.zeros((slots, px, px // 8), np.uint8)
    points = np.zeros((slots, 2, 2), np.float32)
    labels = np.full((slots, 2), PADDING, np.int32)
    for slot, mask in enumerate(chosen):
        mask.put(packed[slot])
        points[slot], labels[slot] = prompts.first_prompt(
            rng,
            mask,
            box_share=config.box_share,
            box_noise=config.box_noise,
            box_noise_max_px=config.box_noise_max_px,
            box_noise_as=config.box_noise_as,
        )
    valid = (np.arange(slots) < len(chosen)).astype(np.float32)
    return {"masks": packed, "points": points, "labels": labels, "valid": valid}


def _usable_masks(
    rng: np.random.Generator, record: Record, grid: Grid, config: PromptedConfig
) -> list[Bitmap]:
    """Up to `config.masks` masks of a usable area, at random; no more are decoded than needed."""
    masks, chosen = SoundMasks(record), []
    largest = config.max_area * len(grid.rows) * len(grid.columns)
    order = rng.permutation(len(masks)).tolist()
    while order and len(chosen) < config.masks:
        missing = config.masks - len(chosen)
        for mask in masks.sample_all(order[:missing], grid):
            # An empty mask has nothing to prompt for, whatever the config allows.
            if mask is not None and max(config.min_area_px, 1) <= mask.area() <= largest:
                chosen.append(mask)
        order = order[missing:]
    masks.require_some()
    return chosen
