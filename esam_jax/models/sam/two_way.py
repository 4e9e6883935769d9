"""Two-way transformer: prompt tokens and image cells attend to each other (arXiv:2304.02643, A).

Both originals are wired here: `config/wirings.py` lists the traits in which they differ.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from esam_jax.config import ComputeConfig, DecoderConfig
from esam_jax.models.parts import layers
from esam_jax.ops import attention
from esam_jax.sharding import constrain

NORM_EPS = 1e-5


class TwoWayTransformer(nn.Module):
    """Tokens and image cells after `depth` rounds and a last look of the tokens at the image.

    The image may come with a query axis of 1: it stays 1 until the first update that depends on
    the prompt, so that what all queries share is computed once. Tokens that are not `seen` only
    fill the shape: nothing attends to them, and their values are not used.
    """

    config: DecoderConfig
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(
        self,
        tokens_BQZE: Float[Array, "B Q Z E"],
        image_BqNE: Float[Array, "B q N E"],
        position_NE: Float[Array, "N E"],
        seen_BQZ: Bool[Array, "B Q Z"] | None = None,
    ) -> tuple[Float[Array, "B Q Z E"], Float[Array, "B Q N E"]]:
        cfg, start_BQZE = self.config, tokens_BQZE  # the tokens are their own position code
        block_class = layers.block_class(TwoWayBlock, self.compute)
        for i in range(cfg.depth):
            block = block_class(cfg, self.compute, first=i == 0, name=f"block_{i:02d}")
            tokens_BQZE, image_BqNE = block(
                tokens_BQZE, image_BqNE, start_BQZE, position_NE, seen_BQZ
            )
            tokens_BQZE = constrain(tokens_BQZE, "batch", ...)
            image_BqNE = constrain(image_BqNE, "batch", ...)
        attend = QueryAttention(cfg, cfg.width // 2, self.compute, name="final_attn")
        placed_BQZE = tokens_BQZE + start_BQZE
        tokens_BQZE += attend(placed_BQZE, image_BqNE, image_BqNE, key_position=position_NE)
        norm = layers.LayerNorm(NORM_EPS, self.compute, name="final_norm")
        return norm(tokens_BQZE), image_BqNE


class TwoWayBlock(nn.Module):
    """Tokens to themselves, tokens to image, MLP on the tokens, image to tokens; norm after each.

    The originals differ in the residual of the first self-attention, in where later ones carry the
    position code, and in the activation (`config/wirings.py`).
    """

    config: DecoderConfig
    compute: ComputeConfig = ComputeConfig()
    first: bool = False

    @nn.compact
    def __call__(
        self,
        tokens_BQZE: Float[Array, "B Q Z E"],
        image_BqNE: Float[Array, "B q N E"],
        start_BQZE: Float[Array, "B Q Z E"],
        position_NE: Float[Array, "N E"],
        seen_BQZ: Bool[Array, "B Q Z"] | None = None,
    ) -> tuple[Float[Array, "B Q Z E"], Float[Array, "B Q N E"]]:
        cfg, half = self.config, self.config.width // 2

        def norm(name: str) -> layers.LayerNorm:
            return layers.LayerNorm(NORM_EPS, self.compute, name=name)

        x_BQZE = self._self_attention(tokens_BQZE, start_BQZE, seen_BQZ)
        x_BQZE = norm("self_norm")(x_BQZE)

        attend = QueryAttention(cfg, half, self.compute, name="token_to_image")
        placed_BQZE = x_BQZE + start_BQZE
        x_BQZE += attend(placed_BQZE, image_BqNE, image_BqNE, key_position=position_NE)
        x_BQZE = norm("token_to_image_norm")(x_BQZE)

        x_BQZE += layers.Mlp(cfg.mlp_width, activation(cfg), self.compute, name="mlp")(x_BQZE)
        x_BQZE = norm("mlp_norm")(x_BQZE)

        attend = QueryAttention(cfg, half, self.compute, name="image_to_token")
        placed_BQZE = x_BQZE + start_BQZE
        image_BQNE = image_BqNE + attend(
            image_BqNE, placed_BQZE, x_BQZE, query_position=position_NE, seen_BqJ=seen_BQZ
        )
        return x_BQZE, norm("image_to_token_norm")(image_BQNE)

    def _self_attention(
        self,
        x_BQZE: Float[Array, "B Q Z E"],
        start_BQZE: Float[Array, "B Q Z E"],
        seen_BQZ: Bool[Array, "B Q Z"] | None,
    ) -> Float[Array, "B Q Z E"]:
        attend = QueryAttention(self.config, self.config.width, self.compute, name="self_attn")
        traits = self.config.traits
        if self.first:  # the tokens are their position code: there is nothing to add yet
            attended_BQZE = attend(x_BQZE, x_BQZE, x_BQZE, seen_BqJ=seen_BQZ)
            return x_BQZE + attended_BQZE if traits.first_residual else attended_BQZE
        placed_BQZE = x_BQZE + start_BQZE
        x_BQZE = placed_BQZE if traits.position_in_values else x_BQZE
        return x_BQZE + attend(placed_BQZE, placed_BQZE, x_BQZE, seen_BqJ=seen_BQZ)


class QueryAttention(nn.Module):
    """Attention within each query, where one of the two sides may be shared by all queries.

    `inner` is the width of all heads together. A position code is added to the side it names.
    """

    config: DecoderConfig
    inner: int
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(
        self,
        query_BQNE: Float[Array, "B Q N E"],
        key_BqJE: Float[Array, "B q J E"],
        value_BqJE: Float[Array, "B q J E"],
        *,
        query_position: Float[Array, "N E"] | None = None,
        key_position: Float[Array, "J E"] | None = None,
        seen_BqJ: Bool[Array, "B q J"] | None = None,
    ) -> Float[Array, "B _ N E"]:
        heads = (self.config.heads, self.inner // self.config.heads)
        q = Projection(heads, self.compute, name="query")(query_BQNE, query_position)
        k = Projection(heads, self.compute, name="key")(key_BqJE, key_position)
        v = Projection(heads, self.compute, name="value")(value_BqJE)
        q, k, v = layers.by_heads(q), layers.by_heads(k), layers.by_heads(v)
        mixed = layers.by_heads(_attend(q, k, v, seen_BqJ, self.compute))
        out = layers.linear(self.config.width, self.compute, "out", axis=(-2, -1))(mixed)
        return constrain(out, "batch", ...)


class Projection(nn.Module):
    """`(x + position) kernel + bias`, cut in heads: {kernel, bias}.

    The position's share is a product of its own: it is the same for every picture and query, so
    the sum is never formed at full width for each of them.
    """

    heads: tuple[int, int]
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(
        self, x: Float[Array, "*X N E"], position: Float[Array, "N E"] | None = None
    ) -> Float[Array, "*X N A K"]:
        init = nn.initializers.xavier_uniform(in_axis=0, out_axis=(1, 2))
        kernel = self.param("kernel", init, (x.shape[-1], *self.heads))
        bias = self.param("bias", nn.initializers.zeros, self.heads)
        kernel, bias = kernel.astype(self.compute.dtype), bias.astype(self.compute.dtype)

        def product(x: Array) -> Array:
            x = x.astype(self.compute.dtype)
            return jnp.tensordot(x, kernel, 1, precision=layers.precision(self.compute))

        if position is not None:
            bias += product(position)
        return product(x) + bias


def activation(config: DecoderConfig) -> Callable[[Array], Array]:
    """The activation of every MLP of the decoder."""
    return {"relu": jax.nn.relu, "gelu": layers.gelu}[config.traits.activation]


def _attend(
    q: Float[Array, "B Q N A K"],
    k: Float[Array, "B q J A K"],
    v: Float[Array, "B q J A K"],
    seen_BqJ: Bool[Array, "B q J"] | None,
    compute: ComputeConfig,
) -> Float[Array, "B _ N A K"]:
    """Attention with the query axis folded away, so that each product has one batch axis.

    Keys that all queries share (q = 1) see the queries' tokens as more rows; otherwise a shared
    query side is repeated, at the narrow width of the heads. Always plain products: one of the
    two sides is a handful of tokens, so the scores are small.
    """
    B, Q, N = q.shape[:3]
    folded = 1 if k.shape[1] == 1 else k.shape[1]
    if folded == 1:
        q = q.reshape(B, Q * N, *q.shape[3:])
    else:
        Q = folded
        q = jnp.broadcast_to(q, (B, Q, *q.shape[2:])).reshape(B * Q, *q.shape[2:])
    k, v = (x.reshape(B * folded, *x.shape[2:]) for x in (k, v))
    seen = None if seen_BqJ is None else seen_BqJ.reshape(B * folded, -1)
    out = attention.attend(q, k, v, seen=seen, impl="xla", precision=layers.precision(compute))
    return out.reshape(B, Q, N, *out.shape[2:])
