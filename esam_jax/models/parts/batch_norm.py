"""Batch normalisation without hidden state: its statistics are parameters that no gradient reaches.

A network in use is normalised by what is stored. In training each norm may take the statistics of
all examples before it instead, and returns them beside its result: those of a network are a tree
(`Moments`) with the names of its parameters, which the update folds into them (`folded`). Under
`jax.jit` all examples are those of the global batch, on however many devices it lies. Examples that
are cut into micro-batches have no common statistics: who trains so may not accumulate.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from esam_jax.config import ComputeConfig
from esam_jax.typing import Params

Moments = Params  # of each norm {"mean", "variance"}, by the names of its parameters
EPS = 1e-5
MOMENTUM = 0.1  # of the running averages, as PyTorch counts it: the share of the newest batch


class BatchNorm(nn.Module):
    """Normalises each channel, in float32: {scale, bias, mean, variance}, all [C].

    By the stored mean and variance or, when `joint`, by those of `x` over all axes but the last,
    with a gradient through them (PyTorch's BatchNorm2d in training). The second result is then what
    is to be folded into what is stored: the mean, and the variance with n - 1; else it is empty.
    """

    compute: ComputeConfig = ComputeConfig()
    joint: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*X C"]) -> tuple[Float[Array, "*X C"], Moments]:
        zeros, ones, shape = nn.initializers.zeros, nn.initializers.ones, (x.shape[-1],)
        scale, bias = self.param("scale", ones, shape), self.param("bias", zeros, shape)
        mean, variance = self.param("mean", zeros, shape), self.param("variance", ones, shape)
        mean, variance = lax.stop_gradient((mean, variance))
        moments: Moments = {}
        wide = x.astype(jnp.float32)
        if self.joint:
            axes = tuple(range(x.ndim - 1))
            mean = wide.mean(axes)
            variance = jnp.square(wide - mean).mean(axes)
            count = x.size // x.shape[-1]
            unbiased = variance * (count / max(count - 1, 1))
            moments = lax.stop_gradient({"mean": mean, "variance": unbiased})
        out = (wide - mean) * (lax.rsqrt(variance + EPS) * scale) + bias
        return out.astype(self.compute.dtype), moments


def folded(params: Params, moments: Moments, good: Bool[Array, ""]) -> Moments:
    """The running averages of `moments` with one more batch in them; unless it is `good`, as they
    are.

    `params` is the tree that they stand in, under the same names.
    """
    changed: dict[str, Any] = {}
    for name, new in moments.items():
        old = params[name]
        if isinstance(new, Mapping):
            changed[name] = folded(old, new, good)
        else:
            changed[name] = jnp.where(good, old + MOMENTUM * (new - old), old)
    return changed


def all_finite(moments: Moments) -> Bool[Array, ""]:
    """Whether every statistic is: a variance may be beyond float32 where the loss is not."""
    each = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(moments)]
    return functools.reduce(jnp.logical_and, each, jnp.bool_(True))


def is_statistic(path: str) -> bool:
    """Whether the parameter of this path is a running average: no gradient trains it."""
    return path.endswith(("_norm/mean", "_norm/variance"))


def cut(accumulate: int) -> str:
    """What is wrong with micro-batches, in words."""
    return (
        f"accumulate is {accumulate}, but task.batch_norm 'batch' takes the statistics of a batch "
        "that is not cut: write --accumulate 1 (and --compute.remat blocks to save memory), or "
        "--task.batch-norm stored"
    )
