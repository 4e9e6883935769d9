"""SAM's trained text prompt: an object as CLIP sees it is the first prompt of its mask.

SAM, sections 7.5 and D.5 (arXiv:2304.02643): no text is needed in training. The image embedding of
the object stands for one, and in inference the embedding of a text takes its place, since CLIP has
brought the two together. Of the recipe there, the attention of CLIP's last layer is not confined to
the mask here.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from esam_jax.config import ClipConfig, ComputeConfig, SamConfig, TextPromptConfig
from esam_jax.convert import load
from esam_jax.errors import CheckpointError, ConfigError
from esam_jax.models import flops, named
from esam_jax.models.clip import towers
from esam_jax.models.parts import stack
from esam_jax.ops import images, object_crops
from esam_jax.tasks.task import Frozen
from esam_jax.tasks.teacher import DRAWN
from esam_jax.typing import Batch, Params

NAME = "clip"  # of the frozen network
RANDOM_SEED = 3

_ENLARGED = (1.0, 2.0)  # section D.5: the box, "by a random factor from 1x to 2x"
_CUT_OUT = 0.5  # the share of objects whose background is zeroed
_STREAM = 3  # of the key of an update, beside those of `tasks/segment.py`


@dataclasses.dataclass(frozen=True)
class TextPrompt:
    """The CLIP that a `TextPromptConfig` names, in training on pictures of `image_px` pixels.

    ConfigError, when it is made, for another model.
    """

    config: TextPromptConfig
    compute: ComputeConfig
    image_px: int

    def __post_init__(self) -> None:
        _ = self.clip

    @property
    def clip(self) -> ClipConfig:
        found = named.model(self.config.model)
        if not isinstance(found, ClipConfig):
            raise ConfigError(
                f"task.text.model is {self.config.model!r}, which is no CLIP: choose a clip_* model"
            )
        return found

    def extended(self, config: SamConfig) -> SamConfig:
        """The promptable model with a place for the features of this CLIP."""
        decoder = dataclasses.replace(config.decoder, text_width=self.clip.embed_width)
        return dataclasses.replace(config, decoder=decoder)

    def draw(self, queries: int, key: Array, images: int) -> Batch:
        """Two uniform numbers an object: how far its box is enlarged, and whether it is cut out."""
        key = jax.random.fold_in(key, _STREAM)
        return {"text": jax.random.uniform(key, (images, queries, 2))}

    def prompts(
        self,
        params: Params,
        image_BHW3: UInt8[Array, "B H W 3"],
        masks_BQHW: Bool[Array, "B Q H W"],
        drawn_BQ2: Float[Array, "B Q 2"],
    ) -> Float[Array, "B Q T"]:
        """Features of each object, of length 1, float32 and without gradient.

        One object of each picture at a time, so that memory does not grow with their number.
        """
        pixels = images.normalise(image_BHW3, images.CLIP_MEAN, images.CLIP_STD)

        def of_one(given: tuple[Array, Array]) -> Array:
            mask_BHW, drawn_B2 = given
            cut_B = drawn_B2[:, 1] < _CUT_OUT
            seen = jnp.where((mask_BHW | ~cut_B[:, None, None])[..., None], pixels, 0)
            low, high = _ENLARGED
            enlarge_B = low + (high - low) * drawn_B2[:, 0]
            found = object_crops.boxes(mask_BHW)
            return self._features(params, seen, found, enlarge_B)

        by_query = jnp.moveaxis(masks_BQHW, 1, 0), jnp.moveaxis(drawn_BQ2, 1, 0)
        return jax.lax.stop_gradient(jnp.moveaxis(jax.lax.map(of_one, by_query), 0, 1))

    def frozen(self, queries: int) -> Frozen:
        """As the train loop reads, places and checks it; of `queries` objects a picture."""
        return Frozen(
            key="task.text",
            weights=self.config.weights,
            read=self._read,
            shapes=lambda: jax.eval_shape(self._draw),
            placement="replicated",
            features=self._quarters,
            drawn=self.config.weights == DRAWN,
            operations=queries * self.operations,
        )

    @functools.cached_property
    def operations(self) -> int:
        """Of one object, its crop included."""
        plain = dataclasses.replace(self, compute=flops.PLAIN)
        shapes = ((1, self.image_px, self.image_px, 3), (1, 4), (1,))
        arrays = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)
        return flops.count(plain._features, jax.eval_shape(self._draw), *arrays)

    def _features(
        self,
        params: Params,
        pixels_BHW3: Float[Array, "B H W 3"],
        boxes_B4: Float[Array, "B 4"],
        enlarge_B: Float[Array, " B"],
    ) -> Float[Array, "B T"]:
        """Of the square around each box, of length 1."""
        px = self.clip.encoder.image_px
        crops_BHW3 = object_crops.squares(pixels_BHW3, boxes_B4, enlarge_B, px)
        tower = towers.ImageTower(self.clip.encoder, self.clip.embed_width, self.compute)
        with stack.forward_only():
            found: Any = tower.apply({"params": params}, crops_BHW3)
        found = found.astype(jnp.float32)
        return found / jnp.maximum(jnp.linalg.norm(found, axis=-1, keepdims=True), 1e-6)

    def _quarters(
        self, params: Params, image_BHW3: UInt8[Array, "B H W 3"]
    ) -> Float[Array, "B 2 2 T"]:
        """Features of the four quarters of each picture, by which weights are tried out."""
        B, H, W, _ = image_BHW3.shape
        pixels = images.normalise(image_BHW3, images.CLIP_MEAN, images.CLIP_STD)

        def of_one(corner: Array) -> Array:
            x0, y0 = corner[0] * W / 2, corner[1] * H / 2
            box = jnp.stack([x0, y0, x0 + W / 2, y0 + H / 2])
            found = jnp.broadcast_to(box, (B, 4)).astype(jnp.float32)
            return self._features(params, pixels, found, jnp.ones(B))

        corners = jnp.array([[0, 0], [1, 0], [0, 1], [1, 1]], jnp.float32)
        found = jnp.moveaxis(jax.lax.map(of_one, corners), 0, 1)
        return found.reshape(B, 2, 2, -1)

    def _draw(self) -> Params:
        px = self.clip.encoder.image_px
        pixels = jnp.zeros((1, px, px, 3))
        tower = towers.ImageTower(self.clip.encoder, self.clip.embed_width)
        return jax.jit(tower.init)(jax.random.key(RANDOM_SEED), pixels)["params"]

    def _read(self) -> Params:
        weights = self.config.weights
        if weights is None:
            raise ConfigError(
                "task.text.weights is not set, but a trained CLIP is needed. Give "
                "--task.text.weights FILE (OpenAI's or transformers' weights, or a model folder), "
                f"or the word {DRAWN} for a dry run"
            )
        if weights == DRAWN:
            return self._draw()
        file = load.model_file(weights)
        if file.config != self.clip:
            raise CheckpointError(
                f"{weights} holds another model than task.text.model {self.config.model!r}: "
                f"{load.differences(file.config, self.clip)}; name the model that the file holds"
            )
        return file.params["encoder"]


def of(
    config: TextPromptConfig | None, compute: ComputeConfig, sam_config: SamConfig
) -> tuple[TextPrompt | None, SamConfig]:
    """What a config names, and the promptable model with a place for it."""
    if config is None:
        return None, sam_config
    text = TextPrompt(config, compute, sam_config.image_px)
    return text, text.extended(sam_config)


def frozen(text: TextPrompt | None, queries: int) -> dict[str, Frozen]:
    """`Task.frozen`."""
    return {} if text is None else {NAME: text.frozen(queries)}


def miscounted(text: TextPrompt | None, queries: int) -> int:
    """`Task.miscounted`: the loss sees each object, and `Frozen.features` four quarters."""
    return 0 if text is None else (4 - queries) * text.operations
