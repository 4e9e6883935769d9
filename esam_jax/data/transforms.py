"""Records to the arrays a task reads: random crops for SAMI, prompted masks for segmentation.

Everything random comes from one generator, keyed by what the example is and never by when or where
it is made: any number of threads and hosts gives the same views.
"""

import hashlib
import math

import numpy as np
from jaxtyping import Bool, Float32, Integer, UInt8
from PIL import Image

from esam_jax.config import CropConfig, PromptedConfig
from esam_jax.data import prompts
from esam_jax.data.records import MaskSet, Record
from esam_jax.errors import ConfigError
from esam_jax.ops import geometry
from esam_jax.typing import PADDING

View = dict[str, np.ndarray]

_MEAN_COLOUR = (124, 116, 104)  # of ImageNet: about zero once normalised
_RATIO = (3 / 4, 4 / 3)
_DECODED_AT_ONCE = 8
_ROWS_AT_ONCE = 8  # so few that a picture's floats stay in the processor's cache


def generator(seed: int, epoch: int, name: str, purpose: int = 0) -> np.random.Generator:
    """The source of randomness for one record in one epoch; each purpose has its own."""
    # A file's name may be no UTF-8.
    digest = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest()
    return np.random.default_rng((seed, epoch, int.from_bytes(digest, "big"), purpose))


def view(
    record: Record, config: CropConfig | PromptedConfig, rng: np.random.Generator
) -> View | None:
    """One example without its batch axis; None when the record has no mask to prompt for."""
    if isinstance(config, CropConfig):
        return crop_view(record, config, rng)
    return prompted_view(record, config, rng)


def shapes(config: CropConfig | PromptedConfig) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of every array of a view, without its batch axis."""
    px = config.image_px
    image = {"image": ((px, px, 3), np.dtype(np.uint8))}
    if isinstance(config, CropConfig):
        return image
    slots = config.masks
    return image | {
        "masks": ((slots, px, px // 8), np.dtype(np.uint8)),
        "points": ((slots, 2, 2), np.dtype(np.float32)),
        "labels": ((slots, 2), np.dtype(np.int32)),
        "valid": ((slots,), np.dtype(np.float32)),
    }


def crop_view(record: Record, config: CropConfig, rng: np.random.Generator) -> View:
    """{"image": uint8 [p, p, 3]}: random resized crop, bicubic, then flip (arXiv:2312.00863)."""
    height, width, _ = record.image.shape
    box = _random_box(rng, height, width, config.min_scale)
    size = (config.image_px, config.image_px)
    crop = np.asarray(Image.fromarray(record.image).resize(size, Image.Resampling.BICUBIC, box))
    if _flips(rng, config.flip):
        crop = crop[:, ::-1]
    return {"image": np.ascontiguousarray(crop)}


def prompted_view(record: Record, config: PromptedConfig, rng: np.random.Generator) -> View | None:
    """The whole picture, up to `config.masks` masks in its frame and a first prompt for each.

    {"image": uint8 [p, p, 3], "masks": packed uint8 [Q, p, p // 8], "points": float32 [Q, 2, 2]
    (x, y in pixels of the p x p input), "labels": int32 [Q, 2], "valid": float32 [Q]}. Slots
    without a mask are zero, labelled as padding. None when no mask of the record can be used.
    """
    if record.masks is None:
        raise ConfigError(
            f"{record.name} comes from a source without masks; prompted views need one"
        )
    px, slots = config.image_px, config.masks
    height, width = _fitted(record.image, config)
    flip = _flips(rng, config.flip)
    rows, columns = _nearest(record.image.shape[0], height), _nearest(record.image.shape[1], width)
    chosen = _usable_masks(rng, record.masks, rows, columns[::-1] if flip else columns, config)
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
        "image": _framed_image(record.image, height, width, config, flip),
        "masks": packed,
        "points": points,
        "labels": labels,
        "valid": (np.arange(slots) < len(chosen)).astype(np.float32),
    }


# --------------------------------------------------------------------------------------- parts


def _random_box(
    rng: np.random.Generator, height: int, width: int, min_scale: float
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a crop: area uniform, ratio log-uniform, as torchvision's."""
    for _ in range(10):
        area = height * width * rng.uniform(min_scale, 1.0)
        ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    # A very long picture: the largest central crop with an allowed ratio.
    w, h = min(width, round(height * _RATIO[1])), min(height, round(width / _RATIO[0]))
    w, h = max(w, 1), max(h, 1)
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _flips(rng: np.random.Generator, flip: str) -> bool:
    return flip == "horizontal" and rng.random() < 0.5


def _fitted(image: UInt8[np.ndarray, "H W 3"], config: PromptedConfig) -> tuple[int, int]:
    """Height and width of the picture inside the square input."""
    if config.fit == "stretch":
        return config.image_px, config.image_px
    return geometry.longest_side(image.shape[0], image.shape[1], config.image_px)


def _nearest(size: int, new_size: int) -> Integer[np.ndarray, " X"]:
    """Which of `size` pixels the centre of each new one falls on."""
    return (2 * np.arange(new_size) + 1) * size // (2 * new_size)


def _usable_masks(
    rng: np.random.Generator,
    masks: MaskSet,
    rows: Integer[np.ndarray, " h"],
    columns: Integer[np.ndarray, " w"],
    config: PromptedConfig,
) -> list[Bool[np.ndarray, "h w"]]:
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
) -> UInt8[np.ndarray, "p p 3"]:
    """The picture at height x width in the top-left corner of a square of the mean colour.

    Resized as `predict.frames.to_input` does it, which depends on the fit.
    """
    resize = _resize_two_taps if config.fit == "stretch" else _resize_antialiased
    px = config.image_px
    if image.shape[:2] != (height, width):
        image = resize(image, height, width)
    framed = np.full((px, px, 3), _MEAN_COLOUR, np.uint8)
    framed[:height, :width] = image[:, ::-1] if flip else image
    return framed


def _resize_antialiased(
    image: UInt8[np.ndarray, "H W 3"], height: int, width: int
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Pillow's bilinear, whose triangle widens as the picture shrinks."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def _resize_two_taps(
    image: UInt8[np.ndarray, "H W 3"], height: int, width: int
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Bilinear between two neighbours, half-pixel, no antialias: `ops.images.stretch`, rounded."""
    top, bottom, down = _taps(image.shape[0], height)
    left, right, across = _taps(image.shape[1], width)
    # Colours as columns of their own: gathering single numbers is what NumPy does fast.
    left, right = ((3 * x[:, None] + np.arange(3)).ravel() for x in (left, right))
    across, down, flat = np.repeat(across, 3), down[:, None], image.reshape(len(image), -1)
    resized = np.empty((height, width * 3), np.uint8)
    for first in range(0, height, _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        upper, lower = flat[top[rows]].astype(np.float32), flat[bottom[rows]].astype(np.float32)
        between = upper + (lower - upper) * down[rows]
        near, far = between.take(left, 1), between.take(right, 1)
        resized[rows] = np.rint(near + (far - near) * across)
    return resized.reshape(height, width, 3)


def _taps(
    size: int, new_size: int
) -> tuple[Integer[np.ndarray, " X"], Integer[np.ndarray, " X"], Float32[np.ndarray, " X"]]:
    """For each new pixel the two of `size` around its centre, and the share of the second."""
    centre = np.maximum((np.arange(new_size) + 0.5) * (size / new_size) - 0.5, 0)
    first = np.minimum(centre.astype(int), size - 1)
    return first, np.minimum(first + 1, size - 1), (centre - first).astype(np.float32)
