"""A loaded promptable model: encode a picture once, then decode any number of prompts."""

import copy
import functools
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from esam_jax.config import ComputeConfig, SamConfig
from esam_jax.convert import provenance
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import PromptError
from esam_jax.machine import out_of_memory
from esam_jax.models.parts import stack
from esam_jax.models.sam import network
from esam_jax.predict import batches, frames, picture_array, weights
from esam_jax.predict.embedding import Embedding, encoder_name
from esam_jax.predict.fetch import each_behind
from esam_jax.predict.masks import Masks
from esam_jax.predict.prompt import Prompt
from esam_jax.typing import Params

_NEEDED_ALWAYS = ("encoder", "encoder/neck", "prompt", "decoder")
_PIXELS_AT_ONCE = 4 * 1024 * 1024  # of model input in one call of the encoder


class Sam:
    """A promptable model with its weights; `esam_jax.load` makes one.

    `model` is the Linen module, `params` its plain nested dict: on the device, or on the host where
    it computes in 16 bits (`predict/weights.py`). `untrained` names parts that hold random values
    (`ModelFile.untrained`): prompts that need them are refused. `encoder` is worked out from
    `params` where it is not given.
    """

    def __init__(
        self,
        model: network.Sam,
        params: Params,
        untrained: Sequence[str] = (),
        encoder: str | None = None,
    ) -> None:
        self.model, self.untrained = model, tuple(untrained)
        self._params, self._ready = weights.kept(model, params)
        self._encoder = encoder

    @property
    def params(self) -> Params:
        """The parameters as they were given; assign others to exchange them."""
        return self._params

    @params.setter
    def params(self, params: Params) -> None:
        self._params, self._ready = weights.kept(self.model, params)
        self._encoder = None

    @property
    def ready(self) -> Params:
        """The parameters as programs read them, on the device: in float32 they are `params`."""
        return self._ready

    def on(self, device: jax.Device) -> "Sam":
        """The same with what programs read on that device."""
        copied = copy.copy(self)
        copied._ready = jax.device_put(self._ready, device)
        if self._params is self._ready:
            copied._params = copied._ready
        return copied

    @property
    def encoder(self) -> str:
        """The name of the image encoder that embeddings carry (`embedding.encoder_name`)."""
        if self._encoder is None:
            self._encoder = encoder_name(self.config, self.params)
        return self._encoder

    def __repr__(self) -> str:
        config, count = self.config, sum(x.size for x in jax.tree.leaves(self.params))
        about = f"{config.encoder.kind} of {config.image_px} px, {count / 1e6:.3g} M parameters"
        return f"Sam({about}, {self.model.compute.dtype})"

    @property
    def config(self) -> SamConfig:
        return self.model.config

    @out_of_memory.advice()
    def encode(self, images: Any) -> Embedding:
        """The image encoder's features.

        images: uint8 RGB [H, W, 3] of any size (NumPy, JAX or Pillow); or a list of such, of
        different sizes; or a batch [B, H, W, 3]. DataError names the first that is something else;
        DeviceMemoryError says what helps when the device is full.
        """
        given, single = picture_array.listed(images)
        pictures = [
            picture_array.of(picture, "images" if single else f"images[{i}]")
            for i, picture in enumerate(given)
        ]
        features = []
        for chunk in _powers_of_two(pictures, self._pictures_at_once):
            features.append(self._encoded([frames.to_input(x, self.config) for x in chunk]))
        together = jnp.concatenate(features) if len(features) > 1 else features[0]
        return Embedding(
            features=jax.block_until_ready(together),  # a full device shows here
            sizes=tuple((x.shape[0], x.shape[1]) for x in pictures),
            single=single,
            encoder=self.encoder,
        )

    @out_of_memory.advice()
    def encode_resized(
        self, images: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]
    ) -> Embedding:
        """The features of pictures that have been brought to the size of the model input already.

        images: RGB, uint8 or floats from 0 to 255, not padded; sizes: (height, width) before.
        """
        features = [self._encoded([frames.from_resized(x, self.config)]) for x in images]
        together = jax.block_until_ready(jnp.concatenate(features))
        return Embedding(together, tuple(sizes), single=False, encoder=self.encoder)

    def _encoded(self, inputs: list[Array]) -> Array:
        return _encode(self.model, self.ready, jnp.stack(inputs))

    @out_of_memory.advice()
    def decode(self, embedding: Any, prompts: Any, *, multimask: bool = True) -> Any:
        """Masks for prompts: one `Masks` for one picture, a list of them for a list of pictures.

        prompts: a `Prompt` or a list of them, one query each; for a list of pictures, one such list
        for each, which may be empty. What lies less than a pixel outside its picture is clipped.
        multimask: three candidates a query, or the one that the model gives for clear prompts.
        Everything is checked before anything is computed; PromptError says what is wrong.
        DeviceMemoryError says what helps when the device is full.
        """
        self._check_embedding(embedding)
        lists = self._checked(embedding, [prompts] if embedding.single else prompts)
        if not multimask and provenance.SINGLE_MASK in self.untrained:
            raise PromptError.of(
                "multimask",
                "is False, but this checkpoint never learned the single mask: "
                "leave it True and take the mask with the highest score",
            )
        answers = self._answers(embedding, lists, multimask)
        return answers[0] if embedding.single else answers

    @out_of_memory.advice()
    def candidates(
        self, embedding: Any, prompts: Sequence[Prompt]
    ) -> tuple[Float[Array, "Q M l l"], Float[np.ndarray, "Q M"]]:
        """Low-resolution logits, left on the device, and scores of the candidates of one picture.

        As `decode`, for callers that discard most of it: the logits of a thousand clicks take
        longer to fetch than to compute.
        """
        self._check_embedding(embedding)
        if len(embedding) != 1:
            raise PromptError.of(
                "embedding", f"holds {len(embedding)} pictures, but only one is taken"
            )
        lists = self._checked(embedding[0], [prompts])
        calls = list(self._asked(embedding, lists, multimask=True))
        order = np.argsort([i for asked, _, _ in calls for _, i in asked])
        whole = [_first(part, len(asked)) for asked, part, _ in calls]
        logits = jnp.concatenate(whole) if len(whole) > 1 else whole[0]
        scores = np.concatenate(
            [np.asarray(part, np.float32)[: len(asked)] for asked, _, part in calls]
        )
        # Prompts of one kind, such as a grid of clicks, are decoded in their order.
        if (np.diff(order) != 1).any():
            logits, scores = logits[order], scores[order]
        return logits, scores

    def _check_embedding(self, embedding: Any) -> None:
        if not isinstance(embedding, Embedding):
            raise PromptError.of(
                "embedding", f"is a {type(embedding).__name__}, but must be what encode returns"
            )
        if embedding.encoder not in (None, self.encoder):
            raise PromptError.of(
                "embedding",
                f"was made by another encoder ({embedding.encoder}) than this model's "
                f"({self.encoder}): encode the pictures with this model",
            )
        side = self.config.encoder.grid
        wanted = (side, side, self.config.encoder.neck_width)
        if embedding.features.shape[1:] != wanted:
            raise PromptError.of(
                "embedding",
                f"has features of shape {embedding.features.shape[1:]}, but this model's are "
                f"{wanted}: encode the pictures with this model",
            )

    def _checked(self, embedding: Embedding, lists: Any) -> list[list[Prompt]]:
        """The prompts of each picture, clipped to it."""
        if not isinstance(lists, Sequence) or len(lists) != len(embedding):
            raise PromptError.of(
                "prompts",
                f"is not a list of {len(embedding)} lists: give one list for each picture",
            )
        checked = []
        for (height, width), asked in zip(embedding.sizes, lists, strict=True):
            asked = [asked] if isinstance(asked, Prompt) else asked
            if not isinstance(asked, Sequence) or not all(isinstance(x, Prompt) for x in asked):
                raise PromptError.of(
                    "prompts", "must be a list of Prompt: write [esam_jax.Prompt(...)]"
                )
            if not asked and embedding.single:
                raise PromptError.of("prompts", "is empty, but must have at least one Prompt")
            checked.append(
                [prompt.checked(self.config, height, width, self.untrained) for prompt in asked]
            )
        return checked

    def _answers(
        self, embedding: Embedding, lists: Sequence[Sequence[Prompt]], multimask: bool
    ) -> list[Masks]:
        side, candidates = self.config.low_res_px, self.config.decoder.mask_tokens - 1
        masks = []
        for size, prompts in zip(embedding.sizes, lists, strict=True):
            shape = (len(prompts), candidates if multimask else 1)
            low_res = np.empty((*shape, side, side), np.float32)
            masks.append(Masks(low_res, np.empty(shape, np.float32), *size, self.config))
        for asked, *answer in each_behind(self._asked(embedding, lists, multimask)):
            # Copies that only fill a call up are left out here.
            for (picture, i), low_res, scores in zip(asked, *answer, strict=False):
                masks[picture].low_res[i], masks[picture].scores[i] = low_res, scores
        return masks

    def _asked(
        self, embedding: Embedding, lists: Sequence[Sequence[Prompt]], multimask: bool
    ) -> Iterator[tuple[Sequence[tuple[int, int]], Float[Array, "X M l l"], Float[Array, "X M"]]]:
        """(picture, query) of each call of the decoder; logits and scores of these, then copies."""
        for call in batches.calls(lists, self.config, embedding.sizes):
            # One picture, by far the most common case, is not copied.
            features = embedding.features
            features = features if len(embedding) == 1 else features[call.pictures]
            answer = _decode(self.model, self.ready, features, call.points, call.labels, call.masks)
            if jax.default_backend() == "cpu":
                # It would begin the next call beside this one, and need room for both.
                jax.block_until_ready(answer)
            # The single mask, or the candidates: the same program gives both.
            kept = slice(1, None) if multimask else slice(0, 1)
            logits, iou = (x.reshape(-1, *x.shape[2:])[:, kept] for x in answer)
            yield call.asked, logits, iou

    @property
    def _pictures_at_once(self) -> int:
        return max(1, _PIXELS_AT_ONCE // self.config.image_px**2)


def from_file(file: ModelFile, source: str | Path, compute: ComputeConfig) -> Sam:
    """The model of a file that was read from `source`, with a warning about untrained parts."""
    hollow = [part for part in file.untrained if part in _NEEDED_ALWAYS]
    if hollow:
        warnings.warn(
            f"{source} holds parts that were never trained ({', '.join(hollow)}): "
            "its masks mean nothing until a promptable training has filled them",
            UserWarning,
            stacklevel=3,
        )
    assert isinstance(file.config, SamConfig)
    encoder = encoder_name(file.config, file.params)  # while they are on the host
    return Sam(network.Sam(file.config, compute), file.params, file.untrained, encoder)


# Compiled for the module and the shapes alone: another set of weights, such as those of a later
# step of training, reuses the program.
@functools.partial(jax.jit, static_argnames="model")
def _encode(
    model: network.Sam, params: Params, pixels: Float[Array, "B H W 3"]
) -> Float[Array, "B h w C"]:
    with stack.forward_only():
        features: Any = model.apply({"params": params}, pixels, method="encode")
    return features


@functools.partial(jax.jit, static_argnames="model")
def _decode(
    model: network.Sam, params: Params, *arrays: Array | None
) -> tuple[Float[Array, "B Q M l l"], Float[Array, "B Q M"]]:
    """Every mask token's, the single mask first."""
    with stack.forward_only():
        answer: Any = model.apply({"params": params}, *arrays, method="decode")
    return answer


def _first(rows: Array, count: int) -> Array:
    return rows if len(rows) == count else rows[:count]


def _powers_of_two(items: list[Any], most: int) -> list[list[Any]]:
    """Cuts a list in runs of 2^k items, longest first, so that few batch sizes are compiled."""
    runs, first = [], 0
    while first < len(items):
        count = min(most, len(items) - first)
        count = 1 << (count.bit_length() - 1)
        runs.append(items[first : first + count])
        first += count
    return runs
