"""A loaded CLIP: features of pictures and of texts in one space."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32, UInt8

from esam_jax.config import ClipConfig, ComputeConfig
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import PromptError
from esam_jax.machine import out_of_memory
from esam_jax.models import rounding
from esam_jax.models.clip import towers
from esam_jax.models.parts import stack
from esam_jax.ops import images
from esam_jax.predict import centre_crop, picture_array, tokenizer, weights
from esam_jax.typing import Params

# What goes through the network in one call: of few sizes, so that few programs are compiled. The
# last one is filled up where it is more than half full.
_SIZES = (1, 8, 64)
_LENGTHS = (16, tokenizer.CONTEXT)  # tokens of a text: what stands behind its end changes nothing


class Clip:
    """Pictures and texts to features of one space; `esam_jax.load_clip` makes one.

    Features are float32 and not normalised. How well a picture and a text fit is the cosine of
    theirs; CLIP's logits are np.exp(clip.logit_scale) times it. `model` is the Linen module,
    `params` its plain nested dict.
    """

    def __init__(self, model: towers.Clip, params: Params) -> None:
        self.model = model
        self._params, self._ready = weights.kept(model, params, _dtypes)

    @property
    def params(self) -> Params:
        """The parameters as they were given; assign others to exchange them."""
        return self._params

    @params.setter
    def params(self, params: Params) -> None:
        self._params, self._ready = weights.kept(self.model, params, _dtypes)

    @property
    def config(self) -> ClipConfig:
        return self.model.config

    @property
    def logit_scale(self) -> float:
        """The parameter as it is stored, a logarithm, as OpenAI's `model.logit_scale` is one."""
        return float(self.params["logit_scale"])

    def __repr__(self) -> str:
        encoder, count = self.config.encoder, sum(x.size for x in jax.tree.leaves(self.params))
        about = f"{encoder.image_px} px, patches of {encoder.patch_px}"
        return f"Clip({about}, {count / 1e6:.3g} M parameters, {self.model.compute.dtype})"

    def on(self, device: jax.Device) -> "Clip":
        """The same with what programs read on that device."""
        copied = copy.copy(self)
        copied._ready = jax.device_put(self._ready, device)
        if self._params is self._ready:
            copied._params = copied._ready
        return copied

    @staticmethod
    def tokenize(texts: Any, *, truncate: bool = False) -> Int32[np.ndarray, "X L"]:
        """One row of 77 tokens for each text (`predict/tokenizer.py`).

        PromptError for a text that is too long, unless `truncate` leaves the rest of it out.
        """
        return tokenizer.tokenize(texts, truncate=truncate)

    @out_of_memory.advice()
    def encode_text(self, texts: Any, *, truncate: bool = False) -> Float[np.ndarray, "X C"]:
        """The features of one text or of several, one row each; errors as for `tokenize`."""
        tokens_XL = self.tokenize(texts, truncate=truncate)
        if not len(tokens_XL):
            raise PromptError.of("texts", "is empty, but at least one text is needed")
        # Up to the first end, the largest number; 0, which fills rows up, is also "!" in a word.
        used = int(tokens_XL.argmax(1).max()) + 1
        length = min(length for length in _LENGTHS if length >= used)
        return self._features(_text_features, list(tokens_XL[:, :length]))

    @out_of_memory.advice()
    def encode_image(self, pictures: Any) -> Float[np.ndarray, "X C"]:
        """The features of one picture or of several, one row each, of the square at the centre.

        pictures: uint8 RGB [H, W, 3] of any size (NumPy, JAX or Pillow), a list of such or a batch
        [B, H, W, 3]. DataError names the first that is something else.
        """
        given, single = picture_array.listed(pictures, "pictures")
        names = ("pictures" if single else f"pictures[{i}]" for i in range(len(given)))
        arrays = [picture_array.of(*each) for each in zip(given, names, strict=True)]
        return self._features(_image_features, arrays, self._square)

    def _square(self, image_HW3: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "s s 3"]:
        return centre_crop.square(image_HW3, self.config.encoder.image_px)

    def _features(
        self,
        program: Callable[..., Float[Array, "X C"]],
        items: list[np.ndarray],
        prepared: Callable[[np.ndarray], np.ndarray] = np.asarray,
    ) -> Float[np.ndarray, "X C"]:
        """Items are prepared while the device computes the features of those before."""
        found, first = [], 0
        while first < len(items):
            size = max(size for size in _SIZES if size == 1 or size < 2 * (len(items) - first))
            run = [prepared(item) for item in items[first : first + size]]
            rows = program(self.model, self._ready, np.stack(run + run[:1] * (size - len(run))))
            found.append(rows[: len(run)])
            first += size
        return np.concatenate([np.asarray(rows) for rows in found])


def from_file(file: ModelFile, source: str | Path, compute: ComputeConfig) -> Clip:
    """The model of a file that was read from `source`."""
    assert isinstance(file.config, ClipConfig), source
    return Clip(towers.Clip(file.config, compute), file.params)


@functools.partial(jax.jit, static_argnames="model")
def _image_features(
    model: towers.Clip, params: Params, images_BHW3: UInt8[Array | np.ndarray, "B H W 3"]
) -> Float[Array, "B C"]:
    pixels = images.normalise(jnp.asarray(images_BHW3), images.CLIP_MEAN, images.CLIP_STD)
    return _apply(model, params, pixels, "encode_image")


@functools.partial(jax.jit, static_argnames="model")
def _text_features(
    model: towers.Clip, params: Params, tokens_XL: Int[Array | np.ndarray, "X L"]
) -> Float[Array, "X C"]:
    return _apply(model, params, jnp.asarray(tokens_XL), "encode_text")


def _apply(model: towers.Clip, params: Params, given: Array, method: str) -> Any:
    with stack.forward_only():
        return model.apply({"params": params}, given, method=method)


def _dtypes(model: towers.Clip, params: Params) -> Params:
    """The types in which programs read `params`."""
    px, shapes = model.config.encoder.image_px, jax.tree.map(_shape, params)

    def programs(params: Params, pixels: Any, tokens: Any) -> Any:
        return (
            model.apply({"params": params}, pixels, method="encode_image"),
            model.apply({"params": params}, tokens, method="encode_text"),
            params["logit_scale"],
        )

    pixels = jax.ShapeDtypeStruct((1, px, px, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((1, tokenizer.CONTEXT), jnp.int32)
    return rounding.dtypes(programs, shapes, pixels, tokens)


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
