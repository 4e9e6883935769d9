"""What several networks share: linear maps, norms, attention, MLP, pre-norm block, neck.

Parameters are float32; `ComputeConfig` says in which dtype and at which precision products run.
Kernels start Xavier-uniform and biases at zero, as MAE starts its own (arXiv:2111.06377, appendix
A.1, after the original ViT). Query, key and value each get their own kernel, as in that ViT.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from esam_jax.config import ComputeConfig
from esam_jax.ops import attention, products
from esam_jax.sharding import LOGICAL, constrain

XAVIER = nn.initializers.xavier_uniform()


def precision(compute: ComputeConfig) -> lax.Precision | None:
    """The `precision` argument of every product."""
    return lax.Precision.HIGHEST if compute.precision == "highest" else None


class Linear(nn.Module):
    """Linear map of the last `axes` axes to the axes `features`: {kernel, bias}.

    One product of two axes with its bias, reshaped afterwards: GPU libraries add a bias of the
    product's own columns in passing, and any other in a pass of its own.
    """

    features: tuple[int, ...]
    axes: int = 1
    use_bias: bool = True
    compute: ComputeConfig = ComputeConfig()
    kernel_init: nn.initializers.Initializer = XAVIER

    @nn.compact
    def __call__(self, x: Float[Array, "*X"]) -> Float[Array, "*_"]:
        lead, given = x.shape[: -self.axes], x.shape[-self.axes :]
        columns, dtype = math.prod(self.features), self.compute.dtype
        flat = (math.prod(given), columns)

        def drawn(rng: jax.Array, shape: tuple[int, ...]) -> Array:
            return self.kernel_init(rng, flat, jnp.float32).reshape(shape)

        kernel = self.param("kernel", drawn, (*given, *self.features)).reshape(flat)
        bias = None
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, self.features).reshape(columns)
        x = x.reshape(*lead, -1).astype(dtype)
        y = products.linear(x, kernel, bias, precision(self.compute))
        return y.reshape(*lead, *self.features)


def linear(
    features: int | tuple[int, ...],
    compute: ComputeConfig,
    name: str,
    *,
    axes: int = 1,
    use_bias: bool = True,
    kernel_init: nn.initializers.Initializer = XAVIER,
) -> Linear:
    """`Linear` of that name; a lone number of features is one axis."""
    features = (features,) if isinstance(features, int) else features
    return Linear(features, axes, use_bias, compute, kernel_init, name=name)


class LayerNorm(nn.Module):
    """Normalises the last axis in float32: {scale, bias}.

    The variance is taken around the mean (two passes): the one-pass E[x^2] - E[x]^2 loses too many
    bits where `eps` matters.
    """

    eps: float
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(self, x: Float[Array, "*X C"]) -> Float[Array, "*X C"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        x = x.astype(jnp.float32)
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred**2).mean(-1, keepdims=True)
        out = centred * lax.rsqrt(variance + self.eps) * scale + bias
        return out.astype(self.compute.dtype)


class Attention(nn.Module):
    """Multi-head attention with biases everywhere: {query, key, value, out}.

    The heads together are as wide as the queries. Keys and values default to the queries. Where it
    is `causal`, no query sees the keys behind its own place.
    """

    heads: int
    compute: ComputeConfig = ComputeConfig()
    causal: bool = False

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "*X N C"],
        key: Float[Array, "*X J _"] | None = None,
        value: Float[Array, "*X J _"] | None = None,
    ) -> Float[Array, "*X N C"]:
        key = query if key is None else key
        value = key if value is None else value
        width, compute = query.shape[-1], self.compute
        per_head = (self.heads, width // self.heads)
        mixed = attend(
            linear(per_head, compute, "query")(query),
            linear(per_head, compute, "key")(key),
            linear(per_head, compute, "value")(value),
            compute,
            causal=self.causal,
        )
        return linear(width, compute, "out", axes=2)(by_heads(mixed))


class Mlp(nn.Module):
    """Linear, activation (exact GELU unless given), linear back: {hidden, out}."""

    width: int
    activation: Callable[[Array], Array] | None = None
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(self, x: Float[Array, "*X C"]) -> Float[Array, "*X C"]:
        activation = self.activation or gelu
        hidden = constrain(linear(self.width, self.compute, "hidden")(x), "batch", ..., "mlp")
        hidden = activation(hidden)
        return linear(x.shape[-1], self.compute, "out")(hidden)


def attend(
    q: Float[Array, "*X N A K"],
    k: Float[Array, "*X J A K"],
    v: Float[Array, "*X J A C"],
    compute: ComputeConfig,
    scale: float | None = None,
    *,
    causal: bool = False,
) -> Float[Array, "*X N A C"]:
    """`attention.attend`, with images and heads on the devices that hold theirs."""
    return attention.attend(
        by_heads(q),
        by_heads(k),
        by_heads(v),
        scale=scale,
        causal=causal,
        impl=compute.attention,
        precision=precision(compute),
        split=(LOGICAL["batch"], LOGICAL["heads"]),
    )


def by_heads(x: Float[Array, "*X N A K"]) -> Float[Array, "*X N A K"]:
    """Queries, keys, values or their mixture, with the heads on the devices that hold theirs."""
    return constrain(x, "batch", ..., "heads", None)


def gelu(x: Float[Array, "*X"]) -> Float[Array, "*X"]:
    """GELU by the error function, in float32; the tanh form moves masks by 2e-3.

    As PyTorch computes it. JAX's own takes the complement of the error function, which is exact
    far below zero, where nothing of it is left, and takes twice as long.
    """
    x32 = x.astype(jnp.float32)
    return (x32 * (0.5 + 0.5 * lax.erf(x32 * 0.5**0.5))).astype(x.dtype)


class Block(nn.Module):
    """Pre-norm transformer block: {attn_norm, attn, mlp_norm, mlp}.

    `attention` makes the attention module, given its name; the block takes whatever shape it takes.
    `activation` is that of the `Mlp`.
    `scales` multiplies what attention and MLP add to each image (`ops.drop_path`).
    """

    attention: Callable[..., nn.Module]
    mlp_width: int
    compute: ComputeConfig = ComputeConfig()
    eps: float = 1e-6
    activation: Callable[[Array], Array] | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "*X C"], scales_B2: Float[Array, "B 2"] | None = None
    ) -> Float[Array, "*X C"]:
        def norm(name: str) -> LayerNorm:
            return LayerNorm(self.eps, self.compute, name=name)

        x = constrain(x, "batch", ...)
        mixed = self.attention(name="attn")(norm("attn_norm")(x))
        x = constrain(x + scaled(mixed, scales_B2, 0), "batch", ...)
        mlp = Mlp(self.mlp_width, self.activation, self.compute, name="mlp")
        added = mlp(norm("mlp_norm")(x))
        return constrain(x + scaled(added, scales_B2, 1), "batch", ...)


def scaled(
    added: Float[Array, "B *X C"], scales_B2: Float[Array, "B 2"] | None, branch: int
) -> Float[Array, "B *X C"]:
    """What a branch of a block adds to each image, multiplied by that branch's `scales_B2`."""
    if scales_B2 is None:
        return added
    return added * scales_B2[:, branch].astype(added.dtype).reshape(-1, *[1] * (added.ndim - 1))


def block_class(block: type[nn.Module], compute: ComputeConfig) -> type[nn.Module]:
    """`block`, recomputed in the backward pass when the config says so."""
    return nn.remat(block) if compute.remat == "blocks" else block


class Neck(nn.Module):
    """Encoder width to embedding width: {project, project_norm, smooth, smooth_norm}, no biases."""

    width: int
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(self, x_BhwD: Float[Array, "B h w D"]) -> Float[Array, "B h w C"]:
        compute = self.compute
        x = linear(self.width, compute, "project", use_bias=False)(x_BhwD)
        x = LayerNorm(1e-6, compute, name="project_norm")(x)
        x = nn.Conv(
            self.width,
            (3, 3),
            use_bias=False,
            dtype=jnp.dtype(compute.dtype),
            precision=precision(compute),
            kernel_init=nn.initializers.xavier_uniform(),
            name="smooth",
        )(x)
        return LayerNorm(1e-6, compute, name="smooth_norm")(x)
