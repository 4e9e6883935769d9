"""Views of entire pictures in the square that a promptable model takes."""

import numpy as np
from jaxtyping import UInt8

from esam_jax.config import FramedConfig, PromptedConfig
from esam_jax.data import stored_features
from esam_jax.data.records import Record
from esam_jax.data.views import augment, draws, resize
from esam_jax.ops import geometry

_MEAN_COLOUR = (124, 116, 104)  # of ImageNet: about zero once normalised


def shapes(config: FramedConfig) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of every array of a view, without its batch axis.

    That of stored features is known by whose they are alone.
    """
    return {"image": ((config.image_px, config.image_px, 3), np.dtype(np.uint8))}


def view(record: Record, config: FramedConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """{"image": uint8 [p, p, 3]}: the complete picture, fitted and mirrored as the config says.

    With stored features also {"target": float32 [h, w, T]}; ConfigError for a record without.
    """
    made = _view(record, config, draws.flips(rng, config.flip))
    if config.features is not None:
        reader = stored_features.reader(config.features)
        name = stored_features.view_name(record.name, 0)
        made["target"] = reader.features(name, made["image"])
    return made


def fixed(config: FramedConfig) -> int | None:
    """One view of each record, unless it is mirrored at random."""
    return 1 if config.flip == "none" else None


def fixed_view(record: Record, config: FramedConfig, number: int) -> dict[str, np.ndarray]:
    """{"image": uint8 [p, p, 3]}: the complete picture, fitted as the config says."""
    return _view(record, config, flip=False)


def _view(record: Record, config: FramedConfig, flip: bool) -> dict[str, np.ndarray]:
    picture = record.picture
    cut = fitted(picture.height, picture.width, config)
    return {"image": image(picture.rgb(), cut, config, flip)}


def fitted(height: int, width: int, config: FramedConfig | PromptedConfig) -> augment.Cut:
    """The complete picture inside the square input."""
    px = config.image_px
    resized = px, px
    if config.fit == "pad":
        resized = geometry.longest_side(height, width, px)
    return augment.Cut(height, width, resized, px)


def image(
    pixels: UInt8[np.ndarray, "H W 3"],
    cut: augment.Cut,
    config: FramedConfig | PromptedConfig,
    flip: bool,
) -> UInt8[np.ndarray, "{config.image_px} {config.image_px} 3"]:
    """What is seen of the picture, in the top-left corner of a square of the mean colour.

    Resized as `predict.frames.to_input` does it, which depends on the fit.
    """
    enlarge = resize.two_taps if config.fit == "stretch" else resize.antialiased
    px, (height, width) = config.image_px, cut.seen
    if pixels.shape[:2] != cut.resized:
        pixels = enlarge(pixels, *cut.resized)
    pixels = cut.window(pixels)
    if flip:
        pixels = pixels[:, ::-1]
    if (height, width) == (px, px):
        return np.ascontiguousarray(pixels)
    framed = np.full((px, px, 3), _MEAN_COLOUR, np.uint8)
    framed[:height, :width] = pixels
    return framed
