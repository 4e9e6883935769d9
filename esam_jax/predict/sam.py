"""A loaded promptable model: encode a picture once, then decode any number of prompts."""

import copy
import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from esam_jax.models.sam import network
from esam_jax.predict import (
    ahead_of_time,
    batches,
    fetch,
    frames,
    picture_array,
    programs,
    room,
    stream,
    weights,
)
from esam_jax.predict.ahead_of_time import Compiled, Shapes
from esam_jax.predict.embedding import Embedding, encoder_name
from esam_jax.predict.masks import Masks
from esam_jax.predict.prompt import Prompt
from esam_jax.predict.room import Room
from esam_jax.predict.rows import Rows
from esam_jax.typing import Params

_NEEDED_ALWAYS = ("encoder", "encoder/neck", "prompt", "decoder")


class Sam:
    """A promptable model with its weights; `esam_jax.load` makes one.

    `model` is the Linen module, `params` its plain nested dict: on the device, or on the host where
    it computes in 16 bits (`predict/weights.py`). `untrained` names parts that hold random values
    (`ModelFile.untrained`): prompts that need them are refused. `encoder` is worked out from
    `params` where it is not given. `thresholds` are the model's own for segment-everything
    (`ModelFile.thresholds`).
    """

    def __init__(
        self,
        model: network.Sam,
        params: Params,
        untrained: Sequence[str] = (),
        encoder: str | None = None,
        thresholds: Mapping[str, float] | None = None,
    ) -> None:
        self.model, self.untrained = model, tuple(untrained)
        self.thresholds = dict(thresholds or {})
        self._params, self._ready = weights.kept(model, params, weights.dtypes)
        self._encoder, self._room = encoder, Room()

    @property
    def params(self) -> Params:
        """The parameters as they were given; assign others to exchange them."""
        return self._params

    @params.setter
    def params(self, params: Params) -> None:
        self._params, self._ready = weights.kept(self.model, params, weights.dtypes)
        self._encoder = None

    @property
    def ready(self) -> Params:
        """The parameters as programs read them, on the device: in float32 they are `params`."""
        return self._ready

    def on(self, device: jax.Device) -> "Sam":
        """The same with what programs read on that device."""
        copied = copy.copy(self)
        copied._ready, copied._room = jax.device_put(self._ready, device), Room()
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
        """The image encoder's features, which an accelerator computes while Python continues.

        images: uint8 RGB [H, W, 3] of any size (NumPy, JAX or Pillow); or a list of such, of
        different sizes; or a batch [B, H, W, 3]. DataError names the first that is something else;
        DeviceMemoryError, here or where the result is used, says what helps when the device is
        full.
        """
        pictures, single = _pictures(images)
        return self._embedding(pictures, single)

    @out_of_memory.advice()
    def encode_resized(
        self, images: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]
    ) -> Embedding:
        """The features of pictures that have been brought to the size of the model input already.

        images: RGB, uint8 or floats from 0 to 255, not padded; sizes: (height, width) before.
        """
        features = self._features(images, frames.from_resized)
        return Embedding(features, tuple(sizes), single=False, encoder=self.encoder)

    @out_of_memory.advice()
    def decode(self, embedding: Any, prompts: Any, *, multimask: bool = True) -> Any:
        """Masks for prompts: one `Masks` for one picture, a list of them for a list of pictures.

        prompts: a `Prompt` or a list of them, one query each; for a list of pictures, one such list
        for each, which may be empty. What lies less than a pixel outside its picture is clipped.
        multimask: three candidates a query, or the one that the model gives for clear prompts.
        Everything is checked before anything is computed; PromptError says what is wrong.
        The masks stay on the device, and an accelerator computes them while Python continues.
        DeviceMemoryError, here or where they are read, says what helps when the device is full.
        """
        self._check_embedding(embedding)
        lists = self._checked(prompts, embedding.sizes, embedding.single, multimask)
        answers = self._answers(embedding, lists, multimask)
        return answers[0] if embedding.single else answers

    @out_of_memory.advice()
    def segment(self, images: Any, prompts: Any, *, multimask: bool = True) -> Any:
        """What `encode` and then `decode` return, with prompts checked before pictures are encoded.

        For one picture one `Masks`, for a list or a batch a list of them; nothing is fetched.
        """
        pictures, single = _pictures(images)
        sizes = _sizes(pictures)
        lists = self._checked(prompts, sizes, single, multimask)
        answers = self._answers(self._embedding(pictures, single), lists, multimask)
        return answers[0] if single else answers

    def segment_many(
        self,
        pictures: Any,
        prompts: Any,
        *,
        multimask: bool = True,
        together: int = stream.TOGETHER,
        errors: str = "raise",
    ) -> Iterator[Any]:
        """The `Masks` of each picture of a stream, in its order.

        pictures: an iterable of paths, or of what `encode` takes for one picture. prompts: of a
        `Prompt` or a list of them for each. Both may be generators: files are read and pictures
        computed, `together` in one call, while the caller uses the masks of those before; two
        groups at most are ahead, and arrays are copied, so that the buffer of a frame may be used
        again. errors: what is wrong with a picture or its prompts is raised, or comes in place of
        its masks ("return"): an `EsamError` that names the file, or `pictures[i]`. What a generator
        raises is raised after the masks of the pictures before.
        """
        if errors not in ("raise", "return"):
            raise PromptError.of("errors", f'is {errors!r:.80}, but must be "raise" or "return"')
        if type(together) is not int or together < 1:
            raise PromptError.of("together", f"is {together!r:.80}, but must be an integer from 1")
        stream.require_streams(pictures, prompts)
        requests = stream.requests_of(pictures, prompts, self)
        found = stream.answered(
            self,
            requests,
            lambda _, answer: answer.masks,
            together=together,
            multimask=multimask,
        )
        return stream.raised(found) if errors == "raise" else found

    @out_of_memory.advice()
    def text(self, picture: Any, texts: Any, *, clip: Any, **options: Any) -> Any:
        """The masks of everything mode, ranked for a text or each of several: a `TextMasks`.

        clip: what `esam_jax.load_clip` returns. options: crop_style, enlarge, background,
        templates, min_area, scale and masks, for which `predict/zero_shot/text.py` has the rules
        and the errors; all others are arguments of `AutomaticMaskGenerator`.
        """
        module = "esam_jax.predict.zero_shot.text"  # by its name, since it builds on this class
        masks_for = importlib.import_module(module).masks_for
        return masks_for(self, picture, texts, clip=clip, **options)

    def text_prompt(self, image: Any, texts: Any, *, clip: Any, **options: Any) -> Masks:
        """Masks for texts, by a model that was trained with such prompts (`segment_sam_text`).

        image: a picture or its embedding. clip: the one of the training. options: templates.
        PromptError as of `predict/zero_shot/prompted_by_text.py`.
        """
        module = importlib.import_module("esam_jax.predict.zero_shot.prompted_by_text")
        return module.masks_for(self, image, texts, clip=clip, **options)

    @out_of_memory.advice()
    def compile(self, shapes: Shapes) -> list[Compiled]:
        """Compiles all that requests within `shapes` need, which then compile nothing; what it was.

        For servers, at their start. ConfigError or PromptError where the model takes no such
        requests, DeviceMemoryError where the device has no room for them.
        """
        return list(ahead_of_time.run(self, shapes))

    # ------------------------------------------------------------------------------- encoding

    def _embedding(self, pictures: list[np.ndarray], single: bool) -> Embedding:
        features = self._features(pictures, frames.to_input)
        return Embedding(features, _sizes(pictures), single, self.encoder)

    def _features(
        self, pictures: Sequence[np.ndarray], to_input: Callable[[np.ndarray, SamConfig], Array]
    ) -> Float[Array, "B h w C"]:
        """In runs of 2^k pictures, longest first, so that few batch sizes are compiled."""
        found, first = [], 0
        while first < len(pictures):
            count = self._pictures_at_once(len(pictures) - first)
            run = [to_input(each, self.config) for each in pictures[first : first + count]]
            found.append(programs.encode(self.model, self.ready, jnp.stack(run)))
            fetch.one_at_a_time(found[-1])
            first += count
        return jnp.concatenate(found) if len(found) > 1 else found[0]

    def _pictures_at_once(self, left: int) -> int:
        px = self.config.image_px
        count = _power_of_two(min(left, room.most_pictures(px)))
        if count == 1:
            return 1
        inputs = jax.ShapeDtypeStruct((count, px, px, 3), jnp.float32)
        return _power_of_two(min(count, self._fit("pictures", count, programs.encode, inputs)))

    def _fit(self, kind: str, count: int, program: Any, *arrays: Any) -> int:
        return self._room.at_once(kind, count, program, self.model, self.ready, *arrays)

    # ------------------------------------------------------------------------------- decoding

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

    def checked(self, prompts: Any, height: int, width: int) -> list[Prompt]:
        """Prompts, or one, about a picture of that size, clipped to it; PromptError for others."""
        prompts = [prompts] if isinstance(prompts, Prompt) else prompts
        if not isinstance(prompts, Sequence) or not all(isinstance(x, Prompt) for x in prompts):
            found = prompts
            if isinstance(prompts, Sequence) and not isinstance(prompts, str | bytes):
                found = next(x for x in prompts if not isinstance(x, Prompt))
            raise PromptError.of(
                "prompts",
                f"must be a list of Prompt, but has {found!r:.80}: write [esam_jax.Prompt(...)]",
            )
        return [prompt.checked(self.config, height, width, self.untrained) for prompt in prompts]

    def _checked(
        self, lists: Any, sizes: Sequence[tuple[int, int]], single: bool, multimask: bool
    ) -> list[list[Prompt]]:
        """The prompts of each picture, clipped to it."""
        lists = [lists] if single else lists
        if not isinstance(lists, Sequence) or len(lists) != len(sizes):
            raise PromptError.of(
                "prompts", f"is not a list of {len(sizes)} lists: give one list for each picture"
            )
        checked = [self.checked(each, *size) for size, each in zip(sizes, lists, strict=True)]
        if single and not checked[0]:
            raise PromptError.of("prompts", "is empty, but must have at least one Prompt")
        if not multimask and provenance.SINGLE_MASK in self.untrained:
            raise PromptError.of(
                "multimask",
                "is False, but this checkpoint never learned the single mask: "
                "leave it True and take the mask with the highest score",
            )
        return checked

    def _answers(
        self, embedding: Embedding, lists: Sequence[Sequence[Prompt]], multimask: bool
    ) -> list[Masks]:
        rows = self._rows(embedding, lists, multimask)
        pairs = zip(rows, embedding.sizes, strict=True)
        return [Masks.of_rows(each, *size, self.config) for each, size in pairs]

    def _rows(
        self, embedding: Embedding, lists: Sequence[Sequence[Prompt]], multimask: bool
    ) -> list[Rows]:
        """For each picture, where the candidates of its queries lie in the decoder's answers."""
        tokens = self.config.decoder.mask_tokens
        # The single mask, or the candidates: the same program gives both.
        kept = np.arange(1, tokens) if multimask else np.arange(1)
        places = [np.empty((len(prompts), len(kept), 2), int) for prompts in lists]
        answers = []
        most = self._queries_at_once(embedding, lists)
        for call in batches.calls(lists, self.config, embedding.sizes, most):
            for row, (picture, query) in enumerate(call.asked):
                places[picture][query, :, 0] = len(answers)
                places[picture][query, :, 1] = row * tokens + kept
            answers.append(fetch.one_at_a_time(self._decoded(embedding, call)))
        logits, scores = (tuple(answer[i] for answer in answers) for i in range(2))
        return [Rows(logits, scores, each).only(slice(None)) for each in places]

    def _decoded(self, embedding: Embedding, call: batches.Call) -> tuple[Array, Array]:
        features = embedding.features
        # All pictures in their order, by far the most common case, are not copied.
        if not np.array_equal(call.pictures, np.arange(len(embedding))):
            features = programs.take(features, call.pictures.astype(np.int32))
        arrays = (features, call.points, call.labels, call.masks)
        return programs.decode(self.model, self.ready, *arrays)

    def _queries_at_once(self, embedding: Embedding, lists: Sequence[Sequence[Prompt]]) -> int:
        most = room.most_prompts()
        queries = batches.largest(lists, self.config, most)
        if queries <= batches.FEW:
            return queries
        features, slots = embedding.features, batches.few_slots(self.config)
        arrays = (
            room.like(features, 1, *features.shape[1:]),
            jax.ShapeDtypeStruct((1, queries, slots, 2), jnp.float32),
            jax.ShapeDtypeStruct((1, queries, slots), jnp.int32),
            None,
        )
        return min(most, self._fit("prompts", queries, programs.decode, *arrays))


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
    model = network.Sam(file.config, compute)
    return Sam(model, file.params, file.untrained, encoder, file.thresholds)


def _pictures(images: Any) -> tuple[list[np.ndarray], bool]:
    """uint8 RGB pictures, and whether one was given, not a list of one."""
    given, single = picture_array.listed(images)
    names = ("images" if single else f"images[{i}]" for i in range(len(given)))
    return [picture_array.of(*each) for each in zip(given, names, strict=True)], single


def _sizes(pictures: list[np.ndarray]) -> tuple[tuple[int, int], ...]:
    return tuple((len(picture), picture.shape[1]) for picture in pictures)


def _power_of_two(count: int) -> int:
    """The largest that is not above `count`."""
    return 1 << (count.bit_length() - 1)
