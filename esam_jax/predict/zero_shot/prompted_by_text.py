"""A text as a prompt of its own, for models that were trained with one (SAM, section 7.5)."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from esam_jax.errors import PromptError
from esam_jax.machine import out_of_memory
from esam_jax.predict import programs
from esam_jax.predict.clip import Clip
from esam_jax.predict.embedding import Embedding
from esam_jax.predict.masks import Masks
from esam_jax.predict.sam import Sam
from esam_jax.predict.zero_shot import text
from esam_jax.typing import NOTHING, PADDING, PADDING_XY

_SIZES = (1, 8, 64)  # queries of one call: of few sizes, so that few programs are compiled


@out_of_memory.advice()
def masks_for(sam: Sam, image: Any, texts: Any, *, clip: Any, templates: Any = text.PLAIN) -> Masks:
    """The candidates of each text, one query each, as `Sam.decode` has them.

    image: a picture, or what `Sam.encode` gave for one. clip: the CLIP that the model was trained
    with. PromptError names the argument that breaks a rule, and says so where the model has never
    learned text prompts.
    """
    require(sam, clip)
    texts, templates = text.checked_texts(texts, templates)
    embedding = image if isinstance(image, Embedding) else sam.encode(image)
    if not embedding.single:
        raise PromptError.of(
            "image", f"has {len(embedding)} pictures, but must be one: call it once each"
        )
    features, found = text.features(clip, texts, templates), []
    for first in range(0, len(features), _SIZES[-1]):
        some = features[first : first + _SIZES[-1]]
        found.append(_decoded(sam, embedding, some))
    logits, scores = (jnp.concatenate(parts) for parts in zip(*found, strict=True))
    return Masks(logits, scores, *embedding.sizes[0], sam.config)


def require(sam: Sam, clip: Any) -> None:
    """PromptError unless the model has learned prompts of this CLIP."""
    if not isinstance(clip, Clip):
        raise PromptError.of(
            "clip", f"is a {type(clip).__name__}, but must be what esam_jax.load_clip returns"
        )
    width = sam.config.decoder.text_width
    if width is None or "prompt/text" in sam.untrained:
        raise PromptError.of(
            "texts",
            "cannot be prompts of this model, which never learned them: train one with "
            "`esam train segment_sam_text`, or rank the masks of everything instead (Sam.text)",
        )
    if clip.config.embed_width != width:
        raise PromptError.of(
            "clip",
            f"has features of {clip.config.embed_width} numbers, but the model was trained with "
            f"one of {width}: give the CLIP that it was trained with",
        )


def _decoded(sam: Sam, embedding: Embedding, features: Float[np.ndarray, "Q T"]) -> tuple[Any, Any]:
    """Logits and scores of the candidates of a few texts."""
    count = len(features)
    size = next(size for size in _SIZES if size >= count)
    padded = np.concatenate([features, np.repeat(features[:1], size - count, 0)])
    slot = PADDING if sam.config.decoder.traits.fixed_slots else NOTHING
    points = np.full((1, size, 2, 2), PADDING_XY, np.float32)
    labels = np.full((1, size, 2), slot, np.int32)
    arrays = embedding.features, jnp.asarray(points), jnp.asarray(labels), None
    logits, scores = programs.decode(sam.model, sam.ready, *arrays, jnp.asarray(padded[None]))
    return logits[0, :count, 1:], scores[0, :count, 1:]
