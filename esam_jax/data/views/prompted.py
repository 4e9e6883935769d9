"""Views for promptable training: a picture, some of its masks, a first prompt for each."""

import numpy as np
from jaxtyping import Bool, Integer, UInt8

from esam_jax.config import PromptedConfig
from esam_jax.data import prompts
from esam_jax.data.mask_sets import MaskSet
from esam_jax.data.records import Record
from esam_jax.data.views import draws, resize
from esam_jax.ops import geometry
from esam_jax.typing import PADDING

_MEAN_COLOUR = (124, 116, 104)  # of ImageNet: about zero once normalised
_DECODED_AT_ONCE = 8


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
    without a mask are zero, labelled as padding. None when no mask of the record can be used.
    """
    px, slots = config.image_px, config.masks
    picture, masks = record.picture, record.annotation("masks")
    height, width = _fitted(picture.height, picture.width, config)
    flip = draws.flips(rng, config.flip)
    rows = resize.nearest(picture.height, height)
    columns = resize.nearest(picture.width, width)
    chosen = _usable_masks(rng, masks, rows, columns[::-1] if flip else columns, config)
    if not chosen:
        return None
    frame, packed = np.zeros((px, px), bool), np.zeros((slots, px, px // 8), np.uint8)
    points = np.zeros((slots, 2, 2), np.float32)
    labels = np.full((slots, 2), PADDING, np.int32)
    for slot, mask in enumerate(chosen):
        frame[:height, :width] = mask
        packed[slot] = np.packbits(frame, axis=-1)
        points[slot], labels[slot] = prompts.first_prompt(
            rng, mask, box_noise=config.box_noise, box_noise_max_px=config.box_noise_max_px
        )
    return {
        "image": _framed_image(picture.rgb(), height, width, config, flip),
        "masks": packed,
        "points": points,
        "labels": labels,
        "valid": (np.arange(slots) < len(chosen)).astype(np.float32),
    }


def _fitted(height: int, width: int, config: PromptedConfig) -> tuple[int, int]:
    """Height and width of the picture inside the square input."""
    if config.fit == "stretch":
        return config.image_px, config.image_px
    return geometry.longest_side(height, width, config.image_px)


def _usable_masks(
    rng: np.random.Generator,
    masks: MaskSet,
    rows: Integer[np.ndarray, " _"],
    columns: Integer[np.ndarray, " _"],
    config: PromptedConfig,
) -> list[Bool[np.ndarray, "{len(rows)} {len(columns)}"]]:
    """Up to `config.masks` masks of a usable area, at random; no more are decoded than needed."""
    order = rng.permutation(len(masks))
    largest = config.max_area * len(rows) * len(columns)
    chosen: list[np.ndarray] = []
    for start in range(0, len(order), _DECODED_AT_ONCE):
        if len(chosen) >= config.masks:
            break
        sampled = masks.sample(order[start : start + _DECODED_AT_ONCE].tolist(), rows, columns)
        areas = np.count_nonzero(sampled, axis=(1, 2))
        # An empty mask has nothing to prompt for, whatever the config allows.
        usable = (areas >= max(config.min_area_px, 1)) & (areas <= largest)
        chosen += list(sampled[usable])
    return chosen[: config.masks]


def _framed_image(
    image: UInt8[np.ndarray, "H W 3"],
    height: int,
    width: int,
    config: PromptedConfig,
    flip: bool,
) -> UInt8[np.ndarray, "{config.image_px} {config.image_px} 3"]:
    """The picture at height x width in the top-left corner of a square of the mean colour.

    Resized as `predict.frames.to_input` does it, which depends on the fit.
    """
    enlarge = resize.two_taps if config.fit == "stretch" else resize.antialiased
    px = config.image_px
    if image.shape[:2] != (height, width):
        image = enlarge(image, height, width)
    framed = np.full((px, px, 3), _MEAN_COLOUR, np.uint8)
    framed[:height, :width] = image[:, ::-1] if flip else image
    return framed
