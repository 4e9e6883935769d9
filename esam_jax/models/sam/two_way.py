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

NORM_EPS = 1e-5


class TwoWayTransformer(nn.Module):
    """Tokens and image cells after `depth` rounds and a last look of the tokens at the image.

    The image may come with a query axis of 1: it stays 1 until the first update that depends on
    the prompt, so that what all queries share is computed once. Tokens that are not `seen` only
    fill the shape: nothing attends to them, and what becomes of them means nothing.
    """

    config: DecoderConfig
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(
        self,
        tokens_BQTE: Float[Array, "B Q T E"],
        image_BqNE: Float[Array, "B q N E"],
        position_NE: Float[Array, "N E"],
        seen_BQT: Bool[Array, "B Q T"] | None = None,
    ) -> tuple[Float[Array, "B Q T E"], Float[Array, "B Q N E"]]:
        cfg, start_BQTE = self.config, tokens_BQTE  # the tokens are their own position code
        block_class = layers.block_class(TwoWayBlock, self.compute)
        for i in range(cfg.depth):
            block = block_class(cfg, self.compute, first=i == 0, name=f"block_{i:02d}")
            tokens_BQTE, image_BqNE = block(
                tokens_BQTE, image_BqNE, start_BQTE, position_NE, seen_BQT
            )
        attend = QueryAttention(cfg, cfg.width // 2, self.compute, name="final_attn")
        placed_BQTE = tokens_BQTE + start_BQTE
        tokens_BQTE += attend(placed_BQTE, image_BqNE, image_BqNE, key_position=position_NE)
        norm = layers.LayerNorm(NORM_EPS, self.compute, name="final_norm")
        return norm(tokens_BQTE), image_BqNE


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
        tokens_BQTE: Float[Array, "B Q T E"],
        image_BqNE: Float[Array, "B q N E"],
        start_BQTE: Float[Array, "B Q T E"],
        position_NE: Float[Array, "N E"],
        seen_BQT: Bool[Array, "B Q T"] | None = None,
    ) -> tuple[Float[Array, "B Q T E"], Float[Array, "B Q N E"]]:
        cfg, half = self.config, self.config.width // 2

        def norm(name: str) -> layers.LayerNorm:
            return layers.LayerNorm(NORM_EPS, self.compute, name=name)

        x_BQTE = self._self_attention(tokens_BQTE, start_BQTE, seen_BQT)
        x_BQTE = norm("self_norm")(x_BQTE)

        attend = QueryAttention(cfg, half, self.compute, name="token_to_image")
        placed_BQTE = x_BQTE + start_BQTE
        x_BQTE += attend(placed_BQTE, image_BqNE, image_BqNE, key_position=position_NE)
        x_BQTE = norm("token_to_image_norm")(x_BQTE)

        x_BQTE += layers.Mlp(cfg.mlp_width, activation(cfg), self.compute, name="mlp")(x_BQTE)
        x_BQTE = norm("mlp_norm")(x_BQTE)

        attend = QueryAttention(cfg, half, self.compute, name="image_to_token")
        placed_BQTE = x_BQTE + start_BQTE
        image_BQNE = image_BqNE + attend(
            image_BqNE, placed_BQTE, x_BQTE, query_position=position_NE, seen_BqN=seen_BQT
        )
        return x_BQTE, norm("image_to_token_norm")(image_BQNE)

    def _self_attention(
        self,
        x_BQTE: Float[Array, "B Q T E"],
        start_BQTE: Float[Array, "B Q T E"],
        seen_BQT: Bool[Array, "B Q T"] | None,
    ) -> Float[Array, "B Q T E"]:
        attend = QueryAttention(self.config, self.config.width, self.compute, name="self_attn")
        traits = self.config.traits
        if self.first:  # the tokens are their position code: there is nothing to add yet
            attended_BQTE = attend(x_BQTE, x_BQTE, x_BQTE, seen_BqN=seen_BQT)
            return x_BQTE + attended_BQTE if traits.first_residual else attended_BQTE
        placed_BQTE = x_BQTE + start_BQTE
        x_BQTE = placed_BQTE if traits.position_in_values else x_BQTE
        return x_BQTE + attend(placed_BQTE, placed_BQTE, x_BQTE, seen_BqN=seen_BQT)


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
        query_BQTE: Float[Array, "B Q T E"],
        key_BqNE: Float[Array, "B q N E"],
        value_BqNE: Float[Array, "B q N E"],
        *,
        query_position: Float[Array, "T E"] | None = None,
        key_position: Float[Array, "N E"] | None = None,
        seen_BqN: Bool[Array, "B q N"] | None = None,
    ) -> Float[Array, "B _ T E"]:
        heads = (self.config.heads, self.inner // self.config.heads)
        q = Projection(heads, self.compute, name="query")(query_BQTE, query_position)
        k = Projection(heads, self.compute, name="key")(key_BqNE, key_position)
        v = Projection(heads, self.compute, name="value")(value_BqNE)
        mixed = _attend(q, k, v, seen_BqN, self.compute)
        return layers.linear(self.config.width, self.compute, "out", axis=(-2, -1))(mixed)


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
    q: Float[Array, "B Q T A K"],
    k: Float[Array, "B q N A K"],
    v: Float[Array, "B q N A K"],
    seen_BqN: Bool[Array, "B q N"] | None,
    compute: ComputeConfig,
) -> Float[Array, "B _ T A K"]:
    """Attention with the query axis folded away, so that each product has one batch axis.

    Keys that all queries share (q = 1) see the queries' tokens as more rows; otherwise a shared
    query side is repeated, at the narrow width of the heads. Always plain products: one of the
    two sides is a handful of tokens, so the scores are small.
    """
    B, Q, T = q.shape[:3]
    folded = 1 if k.shape[1] == 1 else k.shape[1]
    if folded == 1:
        q = q.reshape(B, Q * T, *q.shape[3:])
    else:
        Q = folded
        q = jnp.broadcast_to(q, (B, Q, *q.shape[2:])).reshape(B * Q, *q.shape[2:])
    k, v = (x.reshape(B * folded, *x.shape[2:]) for x in (k, v))
    seen = None if seen_BqN is None else seen_BqN.reshape(B * folded, -1)
    out = attention.attend(q, k, v, seen=seen, impl="xla", precision=layers.precision(compute))
    return out.reshape(B, Q, T, *out.shape[2:])
