"""Text to mask: the masks of everything mode, ranked by how well CLIP finds that a text fits them.

FastSAM (arXiv:2306.12156, section 3.3) and EfficientSAM (supplement, section 2) do it so, without
training. Each mask is cut out of the picture (`crops.py`), all crops go through CLIP once, and each
text is compared with all of them.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from esam_jax.errors import DataError, PromptError
from esam_jax.predict import centre_crop, picture_array, tokenizer
from esam_jax.predict.clip import Clip
from esam_jax.predict.everything import arguments
from esam_jax.predict.everything.generator import AutomaticMaskGenerator
from esam_jax.predict.sam import Sam
from esam_jax.predict.thread_pool import ThreadPool
from esam_jax.predict.zero_shot import crops, given_masks
from esam_jax.words import counted

# Crops and texts -> the similarity of each text to each crop.
Scorer = Callable[[Sequence[np.ndarray], Sequence[str]], Float[np.ndarray, "Q X"]]

FASTSAM_SCALE = 100.0  # what FastSAM multiplies a cosine by, whatever the model's own scale
MIN_AREA_PX = 100  # FastSAM leaves masks of so many pixels or fewer out
PLAIN = ("{}",)  # the user's words alone, as FastSAM has them

_TOGETHER = 64  # crops that a scorer other than CLIP gets at once
_MOST_SHOWN = 60  # characters of a text in a message


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextMasks:
    """Masks of a picture and how well each text fits each of them.

    `masks` are all of them as they were given, or found; `scored` the places there of those that
    were compared, which leaves out those of few pixels. `similarities` are cosines, from -1 to 1.
    """

    texts: tuple[str, ...]
    masks: given_masks.Masks
    scored: Int[np.ndarray, " X"]
    similarities: Float[np.ndarray, "Q X"]
    scale: float

    @property
    def probabilities(self) -> Float[np.ndarray, "Q X"]:
        """Softmax of scale * similarity over the masks, for each text; of a single mask it is 1."""
        if not len(self.scored):
            return self.similarities
        logits = np.float64(self.scale) * self.similarities
        shares = np.exp(logits - logits.max(1, keepdims=True))
        return (shares / shares.sum(1, keepdims=True)).astype(np.float32)

    def order(self, text: int = 0) -> Int[np.ndarray, " X"]:
        """Columns of `similarities`, the best mask for that text first; of equals the earlier."""
        return np.argsort(-self.similarities[text], kind="stable")

    def ranked(self, text: int = 0) -> Int[np.ndarray, " X"]:
        """Places in `masks`, the best for that text first."""
        return self.scored[self.order(text)]

    def best(self, text: int = 0, top: int = 1) -> list[Bool[np.ndarray, "H W"]]:
        """The best masks for that text: at most `top`, none where none was scored."""
        places = self.ranked(text)[:top].tolist()
        return [given_masks.of(self.masks[i], f"masks[{i}]") for i in places]


def masks_for(
    sam: Sam, picture: Any, texts: Any, *, clip: Any, masks: Any = None, **options: Any
) -> TextMasks:
    """`ranked` with the masks of everything mode, unless others are given.

    options: those of `ranked`; all others are arguments of `AutomaticMaskGenerator`, whose records
    have run lengths unless `output_mode` says otherwise. All is checked before anything is found.
    """
    picture = picture_array.of(picture, "picture")
    own = {name: options.pop(name) for name in _RANKING if name in options}
    _check(clip, texts, **own)
    if masks is None:
        generator = AutomaticMaskGenerator(sam, **{"output_mode": "coco_rle", **options})
        masks = generator.generate(picture)
    elif options:
        raise PromptError.of("masks", f"is given, so {', '.join(options)} has no use: leave it out")
    return ranked(picture, masks, texts, clip=clip, **own)


def ranked(
    picture: Any,
    masks: given_masks.Masks,
    texts: Any,
    *,
    clip: Any,
    crop_style: str = "white_frame",
    enlarge: Any = None,
    background: Any = None,
    templates: Any = PLAIN,
    min_area: Any = MIN_AREA_PX,
    scale: Any = None,
) -> TextMasks:
    """Masks of a picture, compared with one text or several.

    clip: a `Clip`, or a function of crops and filled templates that returns the similarity of each
    to each. crop_style, enlarge, background: as in `crops.of_mask`. templates: texts with one {}
    for the words; features of several are normalised, averaged and normalised again, as CLIP's
    classes are. min_area: masks of so many pixels or fewer are left out. scale: what cosines are
    multiplied by before the softmax, np.exp(clip.logit_scale) when None; FastSAM has 100 always.

    PromptError names the argument that breaks a rule; DataError what is no picture, or no mask of
    this picture.
    """
    texts, templates = _check(
        clip, texts, crop_style, enlarge, background, templates, min_area, scale
    )
    picture = picture_array.of(picture, "picture")
    enlarge = None if enlarge is None else float(enlarge)
    size = given_masks.size(masks)
    if size is not None and size != picture.shape[:2]:
        raise DataError(
            f"masks are of {size[0]} x {size[1]} pixels, but the picture has "
            f"{picture.shape[0]} x {picture.shape[1]}: give masks of this picture"
        )
    areas = np.array([np.count_nonzero(mask) for mask in given_masks.each(masks)], int)
    scored = np.flatnonzero(areas > min_area)  # never below 0, so an empty mask is left out
    cut = functools.partial(
        crops.of_mask, picture, style=crop_style, enlarge=enlarge, background=background
    )

    def crop(i: int) -> UInt8[np.ndarray, "_ _ 3"]:
        return cut(given_masks.of(masks[i], f"masks[{i}]"))

    similarities = np.zeros((len(texts), 0), np.float32)
    if len(scored):
        filled = _filled(texts, templates)
        if isinstance(clip, Clip):
            similarities = _by_clip(clip, crop, scored, filled)
        else:
            similarities = _by_scorer(clip, crop, scored, filled)
    if scale is None:
        scale = np.exp(clip.logit_scale) if isinstance(clip, Clip) else 1.0
    return TextMasks(
        texts=tuple(texts),
        masks=masks,
        scored=scored,
        similarities=similarities,
        scale=float(scale),
    )


_RANKING = ("crop_style", "enlarge", "background", "templates", "min_area", "scale")


def checked_texts(texts: Any, templates: Any = PLAIN) -> tuple[list[str], list[str]]:
    """Texts and templates as lists; PromptError for an empty text, one of more than 77 tokens in
    any template, and a template without a place for the text. MissingError or CheckpointError where
    the tokenizer's file is not there, or damaged.
    """
    texts, templates = _listed("texts", texts), _listed("templates", templates)
    for i, template in enumerate(templates):
        if template.count("{}") != 1:
            raise PromptError.of(
                f"templates[{i}]",
                f"is {template!r:.80}, but must have one {{}}, where the text stands",
            )
    for i, text in enumerate(texts):
        if not tokenizer.encode(text):
            raise PromptError.of(
                f"texts[{i}]", f"is {text!r:.80}, which has no words: describe an object"
            )
        for template in templates:
            _require_short(f"texts[{i}]", text, template)
    return texts, templates


def _require_short(name: str, text: str, template: str) -> None:
    most = tokenizer.CONTEXT
    count = 2 + len(tokenizer.encode(template.replace("{}", text)))
    if count > most:
        shown = text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
        within = f" within {template!r:.80}" if template != "{}" else ""
        raise PromptError.of(
            name,
            f"is {shown!r}, which has {counted(count, 'token')}{within}, start and end included, "
            f"but may have {most}: shorten it",
        )


def _listed(name: str, given: Any) -> list[str]:
    found = [given] if isinstance(given, str) else given
    if not isinstance(found, Sequence) or not found:
        raise PromptError.of(name, f"is {given!r:.80}, but must be text, or a list of texts")
    for i, each in enumerate(found):
        if not isinstance(each, str):
            raise PromptError.of(
                f"{name}[{i}]", f"is a {type(each).__name__}, but must be text: write it in quotes"
            )
    return list(found)


def _check(
    clip: Any,
    texts: Any,
    crop_style: Any = "white_frame",
    enlarge: Any = None,
    background: Any = None,
    templates: Any = PLAIN,
    min_area: Any = MIN_AREA_PX,
    scale: Any = None,
) -> tuple[list[str], list[str]]:
    """Texts and templates; PromptError for what `ranked` refuses."""
    if not isinstance(clip, Clip) and not callable(clip):
        raise PromptError.of(
            "clip",
            f"is a {type(clip).__name__}, but must be what esam_jax.load_clip returns, or a "
            "function of crops and texts",
        )
    crops.require(crop_style, enlarge, background)
    arguments.require_whole(0, {"min_area": min_area})
    if scale is not None:
        arguments.require_between(0.0, 1e6, {"scale": scale})
    return checked_texts(texts, templates)


def _filled(texts: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """The texts in each template."""
    return [[template.replace("{}", text) for text in texts] for template in templates]


def _by_clip(
    clip: Clip,
    crop: Callable[[int], UInt8[np.ndarray, "_ _ 3"]],
    scored: Int[np.ndarray, " X"],
    filled: list[list[str]],
) -> Float[np.ndarray, "Q X"]:
    """Cosines of all texts to the crops of all masks, which go through CLIP once."""
    px = clip.config.encoder.image_px

    def seen(i: int) -> UInt8[np.ndarray, "_ _ 3"]:
        return centre_crop.square(crop(i), px)  # small at once: a frame of each mask fills memory

    with ThreadPool(min(len(scored), os.cpu_count() or 1)) as pool:
        squares = list(pool.map(seen, scored.tolist()))
    of_masks, of_texts = _normalised(clip.encode_image(squares)), _of_texts(clip, filled)
    if not (np.isfinite(of_masks).all() and np.isfinite(of_texts).all()):
        raise DataError(
            "clip gave features that are not finite: its weights are damaged, or too large for "
            f"{clip.model.compute.dtype}, so load it again with other ones or with float32"
        )
    # Not a product of matrices, which rounds equal columns differently: equal crops are equal.
    return np.einsum("qc,xc->qx", of_texts, of_masks, dtype=np.float64).astype(np.float32)


def features(
    clip: Clip, texts: Sequence[str], templates: Sequence[str]
) -> Float[np.ndarray, "Q C"]:
    """Of length 1, of each text in the mean of its templates."""
    return _of_texts(clip, _filled(texts, templates))


def _of_texts(clip: Clip, filled: list[list[str]]) -> Float[np.ndarray, "Q C"]:
    flat = [text for texts in filled for text in texts]
    each = _normalised(clip.encode_text(flat))
    return _normalised(each.reshape(len(filled), -1, each.shape[1]).mean(0))


def _by_scorer(
    scorer: Scorer,
    crop: Callable[[int], UInt8[np.ndarray, "_ _ 3"]],
    scored: Int[np.ndarray, " X"],
    filled: list[list[str]],
) -> Float[np.ndarray, "Q X"]:
    """What a function of the caller says, a mean over the templates."""
    flat, parts = [text for texts in filled for text in texts], []
    for first in range(0, len(scored), _TOGETHER):
        some = [crop(int(i)) for i in scored[first : first + _TOGETHER]]
        returned = scorer(some, flat)
        try:
            found = np.asarray(returned, np.float32)
        except (TypeError, ValueError):
            found = np.asarray(np.nan)
        if found.shape != (len(flat), len(some)) or not np.isfinite(found).all():
            raise PromptError.of(
                "clip",
                f"returned {_about(returned)} for {counted(len(flat), 'text')} and "
                f"{counted(len(some), 'crop')}, but must return a finite number for each pair of "
                "them: [texts, crops]",
            )
        parts.append(found)
    return np.concatenate(parts, 1).reshape(len(filled), -1, len(scored)).mean(0)


def _about(returned: Any) -> str:
    shape = getattr(returned, "shape", None)
    return f"a {type(returned).__name__}" if shape is None else f"{type(returned).__name__} {shape}"


def _normalised(features: Float[np.ndarray, "X C"]) -> Float[np.ndarray, "X C"]:
    """Of length 1; zeros stay, which fit nothing."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(length, np.finfo(np.float32).tiny)
