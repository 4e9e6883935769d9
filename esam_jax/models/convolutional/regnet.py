"""RegNetY (arXiv:2003.13678; timm's regnet.py): the teacher of DeiT's distilled models."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from esam_jax.config import ComputeConfig, RegNetConfig
from esam_jax.models.parts.batch_norm import BatchNorm
from esam_jax.models.parts.layers import linear, precision
from esam_jax.ops import convolution
from esam_jax.sharding import BATCH_AXES, constrain
from esam_jax.typing import Params

_HE = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class RegNet(nn.Module):
    """Logits of every class: {stem, stem_norm, stage_1.., head}.

    Pixels as `ops.images.normalise` gives them, of any size. Every stage halves the map, as the
    stem does. Norms take their stored statistics: such a network is used, and not trained.
    """

    config: RegNetConfig
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(self, pixels_BHW3: Float[Array, "B H W 3"]) -> Float[Array, "B X"]:
        cfg, compute = self.config, self.compute
        x = nn.relu(_layer(pixels_BHW3, cfg.stem_width, 3, compute, "stem", stride=2))
        for i, (width, depth) in enumerate(zip(cfg.widths, cfg.depths, strict=True), 1):
            stage = _Stage(width, depth, cfg.group_width, compute, name=f"stage_{i}")
            x = stage(x)
        x_BC = x.astype(jnp.float32).mean((1, 2))
        # What is compared with the target is never rounded to 16 bits.
        exact = dataclasses.replace(compute, dtype="float32")
        return linear(cfg.classes, exact, "head", kernel_init=nn.initializers.normal(0.01))(x_BC)


class _Stage(nn.Module):
    """Blocks of one width, of which the first halves the map: {block_00..}."""

    width: int
    depth: int
    group_width: int
    compute: ComputeConfig

    @nn.compact
    def __call__(self, x_BhwC: Float[Array, "B h w C"]) -> Float[Array, "B _ _ {self.width}"]:
        x = x_BhwC
        for i in range(self.depth):
            stride = 2 if i == 0 else 1
            block = _Block(
                self.width, self.group_width, stride, self.compute, name=f"block_{i:02d}"
            )
            x = block(x)
        return x


class _Block(nn.Module):
    """A residual block: {enter, mix, squeeze, excite, leave}, and `shortcut` where it halves the
    map; a `_norm` beside each convolution of the map."""

    width: int
    group_width: int
    stride: int
    compute: ComputeConfig

    @nn.compact
    def __call__(self, x_BhwC: Float[Array, "B h w C"]) -> Float[Array, "B _ _ {self.width}"]:
        width, compute, given = self.width, self.compute, x_BhwC.shape[-1]
        groups = width // min(self.group_width, width)
        x = nn.relu(_layer(x_BhwC, width, 1, compute, "enter"))
        mix = _Grouped(width, groups, self.stride, compute, name="mix")
        x = nn.relu(_normed(mix(x), compute, "mix"))
        # How much each channel counts, from the means of all: as wide as a quarter of the input.
        mean_BC = x.mean((1, 2))
        share_BC = nn.relu(linear(round(given / 4), compute, "squeeze")(mean_BC))
        share_BC = nn.sigmoid(linear(width, compute, "excite")(share_BC))
        x = _layer(x * share_BC[:, None, None], width, 1, compute, "leave")
        if self.stride > 1 or given != width:
            x_BhwC = _layer(x_BhwC, width, 1, compute, "shortcut", stride=self.stride)
        return nn.relu(x + x_BhwC)


class _Grouped(nn.Module):
    """A convolution of 3 x 3 that sees groups of channels: {kernel}."""

    width: int
    groups: int
    stride: int
    compute: ComputeConfig

    @nn.compact
    def __call__(self, x_BhwC: Float[Array, "B h w C"]) -> Float[Array, "B _ _ {self.width}"]:
        shape, dtype = (3, 3, x_BhwC.shape[-1] // self.groups, self.width), self.compute.dtype
        kernel = self.param("kernel", _HE, shape)
        return convolution.grouped(
            x_BhwC.astype(dtype),
            kernel.astype(dtype),
            self.stride,
            precision=precision(self.compute),
            split=BATCH_AXES,
        )


def _layer(
    x: Array, width: int, side: int, compute: ComputeConfig, name: str, *, stride: int = 1
) -> Array:
    """A convolution without bias and the norm of what it gives: {NAME, NAME_norm}."""
    layer = nn.Conv(
        width,
        (side, side),
        (stride, stride),
        padding=side // 2,
        use_bias=False,
        dtype=jnp.dtype(compute.dtype),
        precision=precision(compute),
        kernel_init=_HE,
        name=name,
    )
    return _normed(layer(x), compute, name)


def _normed(x: Array, compute: ComputeConfig, name: str) -> Array:
    return BatchNorm(compute, name=f"{name}_norm")(constrain(x, "batch", ...))[0]


def init(config: RegNetConfig, rng: Key[Array, ""]) -> Params:
    """Every parameter of the model, freshly drawn; under `jax.jit` nothing else is computed."""
    return RegNet(config).init(rng, jnp.zeros((1, 32, 32, 3)))["params"]


def thin(config: RegNetConfig) -> tuple[RegNetConfig, dict[str, list[int]]]:
    """The config with two blocks a stage: the first, and one that stands for all others."""
    small = dataclasses.replace(config, depths=tuple(min(depth, 2) for depth in config.depths))
    runs = {f"stage_{i}": [0] + (d - 1) * [1] for i, d in enumerate(config.depths, 1)}
    return small, runs


NETWORK = RegNet
