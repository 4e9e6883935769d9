"""Attention of the two-way transformer: within each query, between its few tokens and the image.

A score is t . (x W + b), for a projected token t and a cell x of the image with its position. It is
also (W t) . x + t . b, and the mixture of values of a token, P (x W + b), is (P x) W + b. So the
projections can be moved to the tokens, and the image, which is a thousand times longer and after
the first block differs for each query, is read as it is, instead of being projected and stored. A
token then has the width of the image for each head: that is less work as long as tokens times heads
are fewer than the projection is wide.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from esam_jax.config import ComputeConfig, DecoderConfig
from esam_jax.models.parts import layers
from esam_jax.ops import attention, products
from esam_jax.sharding import constrain


class _Attention(nn.Module):
    """{query, key, value, out}, each {kernel, bias}; `inner` is the width of all heads together."""

    config: DecoderConfig
    inner: int
    compute: ComputeConfig = ComputeConfig()

    def setup(self) -> None:
        heads = (self.config.heads, self.inner // self.config.heads)
        self.query, self.key, self.value = (Weights((self.config.width,), heads) for _ in range(3))
        self.out = Weights(heads, (self.config.width,))

    def few(self, tokens: int) -> bool:
        """Whether projections are moved to that many tokens.

        Attention "xla" is the definition, by which operations are counted: there they never are.
        """
        return self.compute.attention != "xla" and tokens * self.config.heads < self.inner

    def project(
        self, name: str, x: Float[Array, "*X E"], position: Float[Array, "N E"] | None = None
    ) -> Float[Array, "*X A K"]:
        """`(x + position) kernel + bias`, cut in heads.

        The position's share is a product of its own: it is the same for every picture and query, so
        the sum is never formed at full width for each of them.
        """
        kernel, bias = getattr(self, name)()
        flat = kernel.reshape(len(kernel), -1)
        product = functools.partial(products.linear, precision=layers.precision(self.compute))
        x = x.astype(self.compute.dtype)
        if position is None:
            y = product(x, flat, bias.reshape(-1))
        else:
            y = product(x, flat) + product(position.astype(x.dtype), flat, bias.reshape(-1))
        return layers.by_heads(y.reshape(*x.shape[:-1], *kernel.shape[1:]))

    def join(self, mixed: Float[Array, "*X A K"]) -> Float[Array, "*X E"]:
        """What the heads found, mapped back."""
        kernel, bias = self.out()
        mixed = layers.by_heads(mixed)
        flat = mixed.reshape(*mixed.shape[:-2], -1).astype(self.compute.dtype)
        out = products.linear(
            flat, kernel.reshape(flat.shape[-1], -1), bias, layers.precision(self.compute)
        )
        return constrain(out, "batch", ...)

    def scores(
        self,
        name: str,
        tokens_XZAK: Float[Array, "X Z A K"],
        placed_XNE: Float[Array, "X N E"],
        *,
        biased: bool,
    ) -> Float[Array, "X A Z N"]:
        """Scaled, in float32, of projected tokens and the cells that projection `name` maps.

        Without the bias of that projection all scores of a token differ from it by one number,
        which a softmax over the cells does not see.
        """
        (X, Z, A, K), N = tokens_XZAK.shape, placed_XNE.shape[1]
        tokens_XZAK = tokens_XZAK * K**-0.5
        kernel, bias = getattr(self, name)()
        exact = layers.precision(self.compute)
        moved_XAZE = products.weighted("xzak,eak->xaze", tokens_XZAK, kernel, exact)
        moved_XAZE = constrain(moved_XAZE, "batch", "heads", None, None)
        rows = moved_XAZE.reshape(X, A * Z, -1)
        scores = products.einsum("xje,xne->xjn", rows, placed_XNE, exact).reshape(X, A, Z, N)
        if not biased:
            return scores
        shift_XZA = -(tokens_XZAK * bias.astype(tokens_XZAK.dtype)).sum(-1, dtype=scores.dtype)
        # Taken off, not added: a term that is added becomes a matrix that the product reads.
        return scores - shift_XZA.swapaxes(1, 2)[..., None]

    def fold(
        self, image_BQNE: Float[Array, "B Q N E"], position_NE: Float[Array, "N E"] | None = None
    ) -> Float[Array, "X N E"]:
        """The image of each query, with the position of its cells if that is given."""
        image_XNE = _folded(image_BQNE).astype(self.compute.dtype)
        return image_XNE if position_NE is None else image_XNE + position_NE.astype(image_XNE.dtype)


class TokensToTokens(_Attention):
    """The tokens of a query look at each other."""

    def __call__(
        self,
        placed_BQZE: Float[Array, "B Q Z E"],
        value_BQZE: Float[Array, "B Q Z E"],
        seen_BQZ: Bool[Array, "B Q Z"] | None = None,
    ) -> Float[Array, "B Q Z E"]:
        q, k = self.project("query", placed_BQZE), self.project("key", placed_BQZE)
        v = self.project("value", value_BQZE)
        return self.join(_plain(q, k, v, seen_BQZ, self.compute))


class TokensToImage(_Attention):
    """The tokens of a query look at its image, or at the one that all queries share."""

    def __call__(
        self,
        placed_BQZE: Float[Array, "B Q Z E"],
        image_BqNE: Float[Array, "B q N E"],
        position_NE: Float[Array, "N E"],
    ) -> Float[Array, "B Q Z E"]:
        B, Q, Z, _ = placed_BQZE.shape
        q_BQZAK = self.project("query", placed_BQZE)
        if image_BqNE.shape[1] != Q or not self.few(Z):
            k = self.project("key", image_BqNE, position_NE)
            v = self.project("value", image_BqNE)
            return self.join(_plain(q_BQZAK, k, v, None, self.compute))
        placed_XNE = self.fold(image_BqNE, position_NE)
        scores = self.scores("key", _folded(q_BQZAK), placed_XNE, biased=False)
        weights = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True)))
        total_XAZ = weights.sum(-1)
        image_XNE = self.fold(image_BqNE)
        weights = weights.reshape(B * Q, -1, len(position_NE)).astype(image_XNE.dtype)
        exact = layers.precision(self.compute)
        mixed = products.einsum("xjn,xne->xje", weights, image_XNE, exact)
        # Divide after the product with the image: Z x E numbers a head instead of Z x N.
        mixed_XAZE = mixed.reshape(*total_XAZ.shape, -1) / total_XAZ[..., None]
        kernel, bias = self.value()
        mixed_XAZE = mixed_XAZE.astype(image_XNE.dtype)
        v_XZAK = products.weighted("xaze,eak->xzak", mixed_XAZE, kernel, exact)
        return self.join((v_XZAK + bias.astype(v_XZAK.dtype)).reshape(q_BQZAK.shape))


class ImageToTokens(_Attention):
    """Each cell of the image looks at the tokens of a query."""

    def __call__(
        self,
        image_BqNE: Float[Array, "B q N E"],
        position_NE: Float[Array, "N E"],
        placed_BQZE: Float[Array, "B Q Z E"],
        value_BQZE: Float[Array, "B Q Z E"],
        seen_BQZ: Bool[Array, "B Q Z"] | None = None,
    ) -> Float[Array, "B Q N E"]:
        (B, Q, Z, _), N = placed_BQZE.shape, len(position_NE)
        k, v = self.project("key", placed_BQZE), self.project("value", value_BQZE)
        if not self.few(Z):
            q = self.project("query", image_BqNE, position_NE)
            return self.join(_plain(q, k, v, seen_BQZ, self.compute))
        exact = layers.precision(self.compute)
        if image_BqNE.shape[1] == Q:
            placed_XNE = self.fold(image_BqNE, position_NE)
            scores = self.scores("query", _folded(k), placed_XNE, biased=True)
        else:  # projected once for all queries
            q_BNAK = self.project("query", image_BqNE, position_NE)[:, 0]
            k_BQZAK = k * k.shape[-1] ** -0.5
            scores = products.einsum("bqzak,bnak->bqazn", k_BQZAK, q_BNAK, exact)
            scores = scores.reshape(B * Q, -1, Z, N)
        if seen_BQZ is not None:
            scores = jnp.where(_folded(seen_BQZ)[:, None, :, None], scores, -jnp.inf)
        weights = jax.nn.softmax(scores, axis=2).astype(v.dtype).reshape(B * Q, -1, N)
        kernel, bias = self.out()
        moved_XAZE = products.weighted("xzak,ake->xaze", _folded(v), kernel, exact)
        moved_XAZE = constrain(moved_XAZE, "batch", "heads", None, None)
        rows = moved_XAZE.reshape(B * Q, -1, kernel.shape[-1])
        out_XNE = jnp.einsum("xjn,xje->xne", weights, rows, precision=exact)
        out = (out_XNE + bias.astype(out_XNE.dtype)).reshape(B, Q, N, -1)
        return constrain(out, "batch", ...)


class Weights(nn.Module):
    """The parameters of a linear map from the axes `given` to the axes `features`."""

    given: tuple[int, ...]
    features: tuple[int, ...]

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "*_"], Float[Array, "*_"]]:
        axes = range(len(self.given) + len(self.features))
        inward, outward = axes[: len(self.given)], axes[len(self.given) :]
        init = nn.initializers.xavier_uniform(in_axis=tuple(inward), out_axis=tuple(outward))
        kernel = self.param("kernel", init, (*self.given, *self.features))
        return kernel, self.param("bias", nn.initializers.zeros, self.features)


def _folded(x_BQ: Array) -> Array:
    """Images and queries as one axis, so that each product has one batch axis."""
    return x_BQ.reshape(-1, *x_BQ.shape[2:])


def _plain(
    q: Float[Array, "B Q N A K"],
    k: Float[Array, "B q J A K"],
    v: Float[Array, "B q J A K"],
    seen_BqJ: Bool[Array, "B q J"] | None,
    compute: ComputeConfig,
) -> Float[Array, "B _ N A K"]:
    """Attention with the query axis folded away.

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
        q = _folded(jnp.broadcast_to(q, (B, Q, *q.shape[2:])))
    seen = None if seen_BqJ is None else _folded(seen_BqJ)
    exact = layers.precision(compute)
    out = attention.attend(q, _folded(k), _folded(v), seen=seen, impl="xla", precision=exact)
    return out.reshape(B, Q, N, *out.shape[2:])
