"""The complete promptable model: image encoder, prompt encoder, mask decoder.

`encode` once per picture, `decode` as often as there are prompts. The same module is EfficientSAM,
SAM and MobileSAM: its config says which encoder and which wiring of the decoder.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from esam_jax.config import ComputeConfig, SamConfig
from esam_jax.models import encoders
from esam_jax.models.parts.batch_norm import Moments
from esam_jax.models.sam.mask_decoder import MaskDecoder
from esam_jax.models.sam.prompt_encoder import PromptEncoder
from esam_jax.typing import NOTHING, Params


class Sam(nn.Module):
    """Masks for prompts; pixels and points are those of the square, normalised model input."""

    config: SamConfig
    compute: ComputeConfig = ComputeConfig()

    def setup(self) -> None:
        cfg = self.config
        self.encoder = encoders.build(cfg.encoder, self.compute)
        self.prompt = PromptEncoder(cfg, self.compute)
        self.decoder = MaskDecoder(cfg, self.compute)

    def encode(
        self,
        pixels_BHWC: Float[Array, "B H W 3"],
        scales_LB2: Float[Array, "L B 2"] | None = None,
    ) -> Float[Array, "B h w C"]:
        """The image embedding; `pixels` as `ops.images.normalise` gives them.

        `scales_LB2` (`ops.drop_path`) is for training.
        """
        return self.encoder(pixels_BHWC, scales_LB2)

    def encode_jointly(
        self,
        pixels_BHWC: Float[Array, "B H W 3"],
        scales_LB2: Float[Array, "L B 2"] | None = None,
    ) -> tuple[Float[Array, "B h w C"], Moments]:
        """`encode` in training, and the statistics that it found, by the names of all parameters.

        Only batch norms make it differ: `encoders.has_batch_norm`.
        """
        if not encoders.has_batch_norm(self.config.encoder):
            return self.encoder(pixels_BHWC, scales_LB2), {}
        embedding, moments = self.encoder.jointly(pixels_BHWC, scales_LB2)
        return embedding, {"encoder": moments}

    def decode(
        self,
        embedding_BhwC: Float[Array, "B h w C"],
        points_BQP2: Float[Array, "B Q P 2"],
        labels_BQP: Int[Array, "B Q P"],
        mask_logits_BQll: Float[Array, "B Q l l"] | None = None,
        text_BQT: Float[Array, "B Q T"] | None = None,
    ) -> tuple[Float[Array, "B Q M l l"], Float[Array, "B Q M"]]:
        """Low-resolution logits and predicted IoU of all mask tokens: the single mask, candidates.

        Points, labels, mask and text prompts as `PromptEncoder` takes them. SAM's wiring attends to
        every slot that is given, padding included, except those labelled NOTHING; EfficientSAM's to
        its `point_slots` slots; both to a text.
        """
        prompt = points_BQP2, labels_BQP, mask_logits_BQll, text_BQT
        tokens, image = self.look(embedding_BhwC, *prompt)
        return self.draw(tokens, image), self.iou(tokens)

    def look(
        self,
        embedding_BhwC: Float[Array, "B h w C"],
        points_BQP2: Float[Array, "B Q P 2"],
        labels_BQP: Int[Array, "B Q P"],
        mask_logits_BQll: Float[Array, "B Q l l"] | None = None,
        text_BQT: Float[Array, "B Q T"] | None = None,
    ) -> tuple[Float[Array, "B Q Z C"], Float[Array, "B Q N C"]]:
        """The first part of `decode`: tokens and image cells, from which `iou` and `draw` read.

        Who needs the logits of a few queries alone draws those, by their predicted IoU.
        """
        sparse, dense = self.prompt(points_BQP2, labels_BQP, mask_logits_BQll, text_BQT)
        # Slots that are always filled with padding are all attended to.
        seen = None if self.config.decoder.traits.fixed_slots else labels_BQP != NOTHING
        if seen is not None and text_BQT is not None:
            seen = jnp.pad(seen, ((0, 0), (0, 0), (1, 0)), constant_values=True)
        return self.decoder.look(embedding_BhwC, self.prompt.dense_position(), sparse, dense, seen)

    def iou(self, tokens_BQZC: Float[Array, "B Q Z C"]) -> Float[Array, "B Q M"]:
        """Predicted IoU of all mask tokens."""
        return self.decoder.iou(tokens_BQZC)

    def draw(
        self, tokens_BQZC: Float[Array, "B Q Z C"], image_BQNC: Float[Array, "B Q N C"]
    ) -> Float[Array, "B Q M l l"]:
        """Low-resolution logits of all mask tokens."""
        return self.decoder.draw(tokens_BQZC, image_BQNC)

    def __call__(
        self,
        pixels_BHWC: Float[Array, "B H W 3"],
        points_BQP2: Float[Array, "B Q P 2"],
        labels_BQP: Int[Array, "B Q P"],
        mask_logits_BQll: Float[Array, "B Q l l"] | None = None,
    ) -> tuple[Float[Array, "B Q M l l"], Float[Array, "B Q M"]]:
        """Both at once."""
        cfg, text_BQT = self.config, None
        if self.is_initializing() and cfg.decoder.mask_prompts == "learned":
            # Every parameter is made, whether or not the example prompt has a mask.
            side = cfg.low_res_px
            mask_logits_BQll = jnp.zeros((*labels_BQP.shape[:2], side, side))
        if self.is_initializing() and cfg.decoder.text_width is not None:
            text_BQT = jnp.zeros((*labels_BQP.shape[:2], cfg.decoder.text_width))
        prompt = points_BQP2, labels_BQP, mask_logits_BQll, text_BQT
        return self.decode(self.encode(pixels_BHWC), *prompt)


def init(config: SamConfig, rng: Key[Array, ""]) -> Params:
    """Every parameter of the model, freshly drawn; under `jax.jit` nothing else is computed."""
    pixels = jnp.zeros((1, config.image_px, config.image_px, 3))
    points, labels = jnp.zeros((1, 1, 2, 2)), jnp.zeros((1, 1, 2), jnp.int32)
    return Sam(config).init(rng, pixels, points, labels)["params"]


def thin(config: SamConfig) -> tuple[SamConfig, dict[str, list[int]]]:
    """The config with one block of each shape, and which of them stands for each block."""
    encoder, stands_for = encoders.thin(config.encoder)
    decoder = dataclasses.replace(config.decoder, depth=1)
    runs = {"decoder/two_way": [0] * config.decoder.depth}
    runs |= {"encoder": stands_for} if stands_for else {}
    return dataclasses.replace(config, encoder=encoder, decoder=decoder), runs
