"""SAMI: a ViT reconstructs a teacher's features from some of the patches (arXiv:2312.00863, 3.2).

The encoder sees the visible patches only. In the decoder the masked tokens are the queries; keys
and values are the visible and the masked tokens together. Both halves, merged in image order, are
mapped linearly to the teacher's width. Where the paper is silent, this takes the simplest reading
and otherwise MAE's (arXiv:2111.06377): a class token and a last norm in the encoder, positions
added once to both halves before the decoder, blocks of pre-norm cross-attention and MLP, and a
visible half that stays as it enters.

The paper's ablation sends all tokens through MAE's decoder instead (section 4.4).
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from esam_jax.config import ComputeConfig, PretrainDecoderConfig, VitConfig
from esam_jax.models.encoders.vit import VitEncoder
from esam_jax.models.parts import stack
from esam_jax.models.parts.layers import Attention, LayerNorm, Mlp, linear
from esam_jax.models.pretrain.mae import MaeDecoder
from esam_jax.ops import masking, positions
from esam_jax.sharding import constrain


class Sami(nn.Module):
    """Predicted teacher features: {encoder, class_token, norm, embed, decoder, head}.

    `encoder` holds what `VitEncoder` holds, less the neck, so that it can be taken over as it is;
    the rest is thrown away after pretraining. `queries` are the tokens that the decoder transforms;
    with "all" the decoder is MAE's, and {mask_token} stands beside it, as it does in `Mae`.
    """

    encoder: VitConfig
    decoder: PretrainDecoderConfig
    target_width: int
    compute: ComputeConfig = ComputeConfig()
    queries: Literal["masked", "all"] = "masked"

    @nn.compact
    def __call__(
        self,
        pixels_BHWC: Float[Array, "B H W 3"],
        visible_BV: Int[Array, "B V"],
        masked_BU: Int[Array, "B U"],
    ) -> Float[Array, "B h w T"]:
        """Features of every patch, in image order.

        `visible_BV` and `masked_BU` together name each patch of the image once, by raster index.
        """
        h, w = (size // self.encoder.patch_px for size in pixels_BHWC.shape[1:3])
        token_D = self.param("class_token", nn.initializers.normal(0.02), (self.encoder.width,))
        encoder = VitEncoder(self.encoder, self.compute, name="encoder")
        x = encoder.trunk(pixels_BHWC, visible_BV, token_D)
        if self.queries == "masked":
            # The class token has done its work when the encoder ends: it is no patch's anchor.
            x = x[:, 1:]
        x = LayerNorm(1e-6, self.compute, name="norm")(x)
        x = linear(self.decoder.width, self.compute, "embed")(x)
        decode = self._from_anchors if self.queries == "masked" else self._jointly
        x_BNE = decode(x, visible_BV, masked_BU, (h, w))
        # What is compared with the target is never rounded to 16 bits.
        exact = dataclasses.replace(self.compute, dtype="float32")
        features = linear(self.target_width, exact, "head")(x_BNE)
        return features.reshape(-1, h, w, self.target_width)

    def _from_anchors(
        self,
        visible_BVE: Float[Array, "B V E"],
        visible_BV: Int[Array, "B V"],
        masked_BU: Int[Array, "B U"],
        grid: tuple[int, int],
    ) -> Float[Array, "B N E"]:
        """Visible tokens as they are, masked ones transformed; in image order."""
        slots = self.encoder.pretrain_grid
        decoder = SamiDecoder(self.decoder, slots, self.compute, name="decoder")
        x_BNE = decoder(visible_BVE, visible_BV, masked_BU, grid)
        return masking.restore(x_BNE, masking.order(visible_BV, masked_BU))

    def _jointly(
        self,
        x: Float[Array, "B _ E"],
        visible_BV: Int[Array, "B V"],
        masked_BU: Int[Array, "B U"],
        grid: tuple[int, int],
    ) -> Float[Array, "B N E"]:
        """All tokens transformed by MAE's decoder, the class token among them; in image order."""
        token_E = self.param("mask_token", nn.initializers.normal(0.02), (self.decoder.width,))
        masked_BUE = jnp.broadcast_to(token_E.astype(x.dtype), (*masked_BU.shape, token_E.size))
        merged_BNE = jnp.concatenate([x[:, 1:], masked_BUE], axis=1)
        x_BNE = masking.restore(merged_BNE, masking.order(visible_BV, masked_BU))
        slots = 1 + self.encoder.pretrain_grid**2
        decoder = MaeDecoder(self.decoder, slots, self.compute, name="decoder")
        return decoder(jnp.concatenate([x[:, :1], x_BNE], axis=1), grid)[:, 1:]


class SamiDecoder(nn.Module):
    """[visible, masked] tokens for the head: {mask_token, positions, block_00.., norm}.

    `positions` is learned for a square of `grid` cells and starts as MAE's sine-cosine code: so
    masked tokens differ, and can find their neighbours, from the first step on.
    """

    config: PretrainDecoderConfig
    grid: int
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(
        self,
        visible_BVE: Float[Array, "B V E"],
        visible_BV: Int[Array, "B V"],
        masked_BU: Int[Array, "B U"],
        grid: tuple[int, int],
    ) -> Float[Array, "B V+U E"]:
        cfg, dtype = self.config, visible_BVE.dtype
        table_SE = self.param("positions", _first_positions, (self.grid**2, cfg.width))
        position_NE = positions.resample(table_SE, *grid).reshape(-1, cfg.width)

        def picked(indices: Int[Array, "B _"]) -> Float[Array, "B _ E"]:
            # Rounded when they are picked: the gradient of a row is summed over all images, too
            # many to add up in 16 bits.
            return position_NE[indices].astype(dtype)

        token_E = self.param("mask_token", nn.initializers.normal(0.02), (cfg.width,))
        visible_BVE = visible_BVE + picked(visible_BV)
        masked_BUE = token_E.astype(dtype) + picked(masked_BU)
        blocks = [CrossBlock(cfg, self.compute, name=f"block_{i:02d}") for i in range(cfg.depth)]
        masked_BUE = stack.through(blocks, masked_BUE, visible_BVE, compute=self.compute)
        merged_BNE = jnp.concatenate([visible_BVE, masked_BUE], axis=1)
        return LayerNorm(1e-6, self.compute, name="norm")(merged_BNE)


class CrossBlock(nn.Module):
    """Masked tokens look at all tokens: {query_norm, context_norm, attn, mlp_norm, mlp}."""

    config: PretrainDecoderConfig
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(
        self, masked_BUE: Float[Array, "B U E"], visible_BVE: Float[Array, "B V E"]
    ) -> Float[Array, "B U E"]:
        cfg, compute = self.config, self.compute

        def norm(name: str) -> LayerNorm:
            return LayerNorm(1e-6, compute, name=name)

        context_BNE = jnp.concatenate([visible_BVE, masked_BUE], axis=1)
        attn = Attention(cfg.heads, compute=compute, name="attn")
        x = masked_BUE + attn(norm("query_norm")(masked_BUE), norm("context_norm")(context_BNE))
        x = constrain(x, "batch", ...)
        mlp = Mlp(cfg.mlp_ratio * cfg.width, compute=compute, name="mlp")
        return constrain(x + mlp(norm("mlp_norm")(x)), "batch", ...)


def _first_positions(rng: jax.Array, shape: tuple[int, int]) -> Float[Array, "S E"]:
    slots, width = shape
    side = int(slots**0.5)
    return jnp.asarray(positions.sincos(side, side, width))
