"""CLIP's two encoders beside transformers', and beside the recorded numbers of its original."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from esam_jax.config import ClipConfig
from esam_jax.evaluate import exact, golden
from esam_jax.evaluate.originals import Original
from esam_jax.models.clip import towers
from esam_jax.ops import images
from esam_jax.predict import centre_crop, tokenizer

_TEXTS = ("a photo of a dog", "", "two cats asleep on a red couch, and one that is not")


def original_pairs(
    config: ClipConfig, params: Any, original: Original
) -> Iterator[tuple[str, Any, np.ndarray]]:
    """The features of a picture of noise, and of three texts."""
    assert original.read is not None
    px, ours = config.encoder.image_px, towers.Clip(config, exact.COMPUTE)
    noise = np.random.default_rng(0).integers(0, 256, (1, px, px, 3), np.uint8)
    pixels = _pixels(noise)
    features = exact.apply(ours, params, "encode_image", pixels)
    yield "image features", features, original.encode(np.asarray(pixels))
    tokens = tokenizer.tokenize(_TEXTS)
    features = exact.apply(ours, params, "encode_text", jnp.asarray(tokens))
    yield "text features", features, original.read(tokens)


def golden_pairs(
    case: golden.Case, config: ClipConfig, params: Any
) -> Iterator[tuple[str, Any, np.ndarray]]:
    """Features and logits of a golden case, from its pictures and texts on."""
    arrays, ours = case.arrays, towers.Clip(config, exact.COMPUTE)
    tokens = tokenizer.tokenize(case.meta["strings"], truncate=True)
    yield "tokens", tokens == arrays["token_ids"], np.ones(tokens.shape, bool)
    pictures = [arrays[name] for name in ("image_0", "image_1")]
    pixels = _pixels(np.stack([centre_crop.square(x, config.encoder.image_px) for x in pictures]))
    for name, method, given in (
        ("image_features", "encode_image", (pixels,)),
        ("text_features", "encode_text", (jnp.asarray(tokens),)),
        ("logits_per_image", "__call__", (pixels, jnp.asarray(tokens))),
    ):
        found = exact.apply(ours, params, method, *given)
        yield name.replace("_per_image", "").replace("_", " "), found, arrays[name]


def _pixels(pictures: np.ndarray) -> Any:
    return images.normalise(jnp.asarray(pictures), images.CLIP_MEAN, images.CLIP_STD)
