"""Mask decoder: an embedding and prompts to mask logits and IoU (arXiv:2304.02643, section A).

EfficientSAM's release (`efficient_sam_decoder.py`) differs from SAM in its activation (GELU for
ReLU) and in normalising the complete upscaled map instead of each cell: `config/wirings.py`.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from esam_jax.config import ComputeConfig, DecoderConfig, SamConfig
from esam_jax.models.parts import layers
from esam_jax.models.sam.two_way import TwoWayTransformer, activation
from esam_jax.ops import products
from esam_jax.sharding import constrain


class MaskDecoder(nn.Module):
    """Logits (at four times the feature grid) and predicted IoU of every mask token.

    Mask 0 is the single-mask output, the others are the candidates. The embedding is never
    repeated for the queries: what does not depend on the prompt is computed once per image.
    Sparse tokens that are not `seen` only fill the shape.
    """

    config: SamConfig
    compute: ComputeConfig = ComputeConfig()

    def setup(self) -> None:
        cfg, compute = self.config.decoder, self.compute
        normal = nn.initializers.normal(1.0)
        self.iou_token = self.param("iou_token", normal, (1, cfg.width))
        self.mask_tokens = self.param("mask_tokens", normal, (cfg.mask_tokens, cfg.width))
        self.two_way = TwoWayTransformer(cfg, compute)
        self.upscale = layers.block_class(Upscale, compute)(cfg, compute)
        self.mask_heads = MaskHeads(cfg, compute)
        self.iou_head = IouHead(cfg, compute)

    def __call__(self, *prompted: Any) -> tuple[Float[Array, "B Q M l l"], Float[Array, "B Q M"]]:
        """Of what `look` takes."""
        tokens, image = self.look(*prompted)
        return self.draw(tokens, image), self.iou(tokens)

    def look(
        self,
        embedding_BhwC: Float[Array, "B h w C"],
        position_hwC: Float[Array, "h w C"],
        sparse_BQPC: Float[Array, "B Q P C"],
        dense_BqhwC: Float[Array, "B q h w C"] | None = None,
        seen_BQP: Bool[Array, "B Q P"] | None = None,
    ) -> tuple[Float[Array, "B Q Z C"], Float[Array, "B Q N C"]]:
        """Tokens and image cells of each query after they have attended to each other."""
        B, h, w, C = embedding_BhwC.shape
        dtype = self.compute.dtype
        image = embedding_BhwC[:, None]
        if dense_BqhwC is not None:
            image = image + dense_BqhwC
        return self.two_way(
            self._tokens(sparse_BQPC).astype(dtype),
            image.reshape(B, -1, h * w, C).astype(dtype),
            position_hwC.reshape(h * w, C),
            self._seen(seen_BQP),
        )

    def iou(self, tokens_BQZC: Float[Array, "B Q Z C"]) -> Float[Array, "B Q M"]:
        """Predicted IoU of every mask, for which no logits are needed."""
        return self.iou_head(tokens_BQZC[:, :, 0])

    def draw(
        self, tokens_BQZC: Float[Array, "B Q Z C"], image_BQNC: Float[Array, "B Q N C"]
    ) -> Float[Array, "B Q M l l"]:
        """Logits of every mask, of what `look` gives."""
        side = self.config.encoder.grid
        features = self.upscale(image_BQNC)
        heads = self.mask_heads(tokens_BQZC[:, :, 1 : 1 + self.config.decoder.mask_tokens])
        return _shuffle(_masks(heads, features, self.compute), side, side)

    def _tokens(self, sparse_BQPC: Float[Array, "B Q P C"]) -> Float[Array, "B Q Z C"]:
        """The learned output tokens in front of each query's own."""
        B, Q, _, _ = sparse_BQPC.shape
        learned = jnp.concatenate([self.iou_token, self.mask_tokens])
        learned = jnp.broadcast_to(learned, (B, Q, *learned.shape))
        return jnp.concatenate([learned, sparse_BQPC], axis=2)

    def _seen(self, seen_BQP: Bool[Array, "B Q P"] | None) -> Bool[Array, "B Q Z"] | None:
        if seen_BQP is None:
            return None
        learned = ((0, 0), (0, 0), (1 + self.config.decoder.mask_tokens, 0))
        return jnp.pad(seen_BQP, learned, constant_values=True)


class Upscale(nn.Module):
    """Each cell cut in 4x4, as its last two axes say: (2x2 of the first step, 2x2 of the second).

    Nothing here mixes cells (the norm over the map does not depend on their order), so they stay
    where they are and only the finished masks are put in image order.
    """

    config: DecoderConfig
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(self, image_BQNC: Float[Array, "B Q N C"]) -> Float[Array, "B Q N 4 4 C//8"]:
        B, Q, N, C = image_BQNC.shape
        x = constrain(image_BQNC.reshape(B * Q, N, C), "batch", ...)
        x = TransposedConv(C // 4, self.compute, name="conv_1")(x)
        if self.config.traits.upscale_norm == "cell":
            x = layers.LayerNorm(1e-6, self.compute, name="norm")(x)
        else:
            x = nn.GroupNorm(
                num_groups=1,
                epsilon=1e-5,
                use_fast_variance=False,
                dtype=self.compute.dtype,
                name="norm",
            )(x)
        x = layers.gelu(x)
        x = TransposedConv(C // 8, self.compute, name="conv_2")(x)
        x = layers.gelu(x)
        return constrain(x, "batch", ...).reshape(B, Q, N, 4, 4, -1)


class TransposedConv(nn.Module):
    """2x2 stride-2 transposed convolution; each cell keeps its four sub-pixels, row by row."""

    features: int
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(self, x: Float[Array, "*X C"]) -> Float[Array, "*X 4 {self.features}"]:
        init = nn.initializers.lecun_normal(in_axis=0, out_axis=3, batch_axis=(1, 2))
        kernel = self.param("kernel", init, (x.shape[-1], 2, 2, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        kernel, bias = kernel.reshape(x.shape[-1], -1), jnp.tile(bias, 4)
        x = x.astype(self.compute.dtype)
        y = products.linear(x, kernel, bias, layers.precision(self.compute))
        return y.reshape(*x.shape[:-1], 4, self.features)


class MaskHeads(nn.Module):
    """One three-layer MLP per mask token (the hypernetworks), all in one batched product."""

    config: DecoderConfig
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(self, tokens_BQMC: Float[Array, "B Q M C"]) -> Float[Array, "B Q M C//8"]:
        act, C = activation(self.config), tokens_BQMC.shape[-1]
        x = act(self._layer("hidden_1", tokens_BQMC, C))
        x = act(self._layer("hidden_2", x, C))
        return self._layer("out", x, C // 8)

    def _layer(
        self, name: str, x: Float[Array, "B Q M C"], features: int
    ) -> Float[Array, "B Q M {features}"]:
        return StackedDense(features, self.compute, name=name)(x)


class StackedDense(nn.Module):
    """A linear layer of its own for each mask token."""

    features: int
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(self, x_BQMC: Float[Array, "B Q M C"]) -> Float[Array, "B Q M {self.features}"]:
        M, C = x_BQMC.shape[2:]
        init = nn.initializers.lecun_normal(in_axis=1, out_axis=2, batch_axis=0)
        kernel = self.param("kernel", init, (M, C, self.features))
        bias = self.param("bias", nn.initializers.zeros, (M, self.features))
        x, kernel, bias = (a.astype(self.compute.dtype) for a in (x_BQMC, kernel, bias))
        y = jnp.einsum("bqmc,mco->bqmo", x, kernel, precision=layers.precision(self.compute))
        return y + bias


class IouHead(nn.Module):
    """Predicted IoU of every mask, a raw number: neither original bounds it."""

    config: DecoderConfig
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(self, token_BQC: Float[Array, "B Q C"]) -> Float[Array, "B Q M"]:
        cfg, x = self.config, token_BQC
        for name in ("hidden_1", "hidden_2"):
            x = activation(cfg)(layers.linear(cfg.iou_width, self.compute, name)(x))
        # The score itself is never rounded to 16 bits: candidates are ranked by it.
        exact = dataclasses.replace(self.compute, dtype="float32")
        return layers.linear(cfg.mask_tokens, exact, "out")(x)


def _masks(
    heads_BQMC: Float[Array, "B Q M C"],
    features_BQN44C: Float[Array, "B Q N 4 4 C"],
    compute: ComputeConfig,
) -> Float[Array, "B Q M N 4 4"]:
    """Logits: each mask's own linear read-out of the upscaled features."""
    B, Q, N, _, _, C = features_BQN44C.shape
    logits = products.einsum(
        "xmc,xnc->xmn",
        heads_BQMC.reshape(B * Q, -1, C),
        features_BQN44C.reshape(B * Q, -1, C),
        layers.precision(compute),
    )
    return logits.reshape(B, Q, -1, N, 4, 4)


def _shuffle(
    logits_BQMN44: Float[Array, "B Q M N 4 4"], h: int, w: int
) -> Float[Array, "B Q M {4*h} {4*w}"]:
    """Cells and their two levels of sub-pixels put in image order."""
    B, Q, M = logits_BQMN44.shape[:3]
    x = logits_BQMN44.reshape(B, Q, M, h, w, 2, 2, 2, 2)
    return x.transpose(0, 1, 2, 3, 5, 7, 4, 6, 8).reshape(B, Q, M, 4 * h, 4 * w)
