"""MobileSAM's image encoder: TinyViT, convolutions then windowed attention (arXiv:2306.14289).

After upstream tiny_vit_sam.py (TinyViT is arXiv:2207.10666). Positions come from the convolutions
and by the biases of the attention alone, so any multiple of the patch size will do.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from esam_jax.config import ComputeConfig, TinyVitConfig
from esam_jax.errors import ConfigError
from esam_jax.models.parts.batch_norm import BatchNorm, Moments
from esam_jax.models.parts.layers import (
    LayerNorm,
    Mlp,
    Neck,
    block_class,
    by_heads,
    gelu,
    linear,
    precision,
    scaled,
)
from esam_jax.ops import attention, convolution
from esam_jax.sharding import constrain

_EXPANSION = 4  # of the bottlenecks in stage 0 (upstream mbconv_expand_ratio)
_EPS = 1e-5  # of every layer norm here; the neck's are 1e-6


class Depthwise(nn.Module):
    """3x3 convolution of each channel apart: {kernel} [3, 3, C]."""

    stride: int = 1

    @nn.compact
    def __call__(self, x_BhwC: Float[Array, "B h w C"]) -> Float[Array, "B _ _ C"]:
        # Xavier counts all channels as outputs of each, and the signal would fade: a norm by stored
        # statistics does not restore it.
        kernel = self.param("kernel", _depthwise_init, (3, 3, x_BhwC.shape[-1]))
        return convolution.depthwise(x_BhwC, kernel, self.stride)


def _depthwise_init(rng: jax.Array, shape: tuple[int, int, int]) -> Float[Array, "3 3 C"]:
    return jax.random.normal(rng, shape) / 3.0  # nine inputs each


class WindowAttention(nn.Module):
    """Attention inside windows: {norm, query, key, value, out, biases}.

    The grid is padded with zeros to complete windows before the norm, so that a padded cell is the
    norm's bias; it is not masked. `biases` [A, window**2], one for each distance in rows and
    columns, |rows| * window + |columns|, are added to the scaled scores.
    """

    heads: int
    window: int
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(self, x_BhwD: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        (_, h, w, D), compute, side = x_BhwD.shape, self.compute, self.window
        per_head = (self.heads, D // self.heads)
        windows, padded = attention.to_windows(x_BhwD, side)
        x_XND = windows.reshape(-1, side**2, D)
        x_XND = LayerNorm(_EPS, compute, name="norm")(x_XND)
        biases_AL = self.param("biases", nn.initializers.zeros, (self.heads, side**2))
        mixed = attention.attend(
            by_heads(linear(per_head, compute, "query")(x_XND)),
            by_heads(linear(per_head, compute, "key")(x_XND)),
            by_heads(linear(per_head, compute, "value")(x_XND)),
            bias=attention.distance_biases(biases_AL, side),
            impl="xla",  # the only one that takes a bias; a window has few tokens
            precision=precision(compute),
        )
        out = linear(D, compute, "out", axes=2)(by_heads(mixed))
        return attention.from_windows(out.reshape(windows.shape), padded, (h, w))


class TinyVitBlock(nn.Module):
    """Windowed attention, depthwise convolution, MLP: {attn, local, local_norm, mlp_norm, mlp}.

    The convolution has no residual and no activation. `scales_B2` multiplies what attention and MLP
    add to each image.
    """

    heads: int
    window: int
    mlp_width: int
    compute: ComputeConfig = ComputeConfig()
    joint: bool = False

    @nn.compact
    def __call__(
        self, x_BhwD: Float[Array, "B h w D"], scales_B2: Float[Array, "B 2"] | None = None
    ) -> tuple[Float[Array, "B h w D"], Moments]:
        compute = self.compute
        mixed = WindowAttention(self.heads, self.window, compute, name="attn")(x_BhwD)
        x = x_BhwD + scaled(mixed, scales_B2, 0)
        x = constrain(x, "batch", ...)
        x = Depthwise(name="local")(x)
        x, seen = BatchNorm(compute, self.joint, name="local_norm")(x)
        normed = LayerNorm(_EPS, compute, name="mlp_norm")(x)
        added = Mlp(self.mlp_width, compute=compute, name="mlp")(normed)
        x = x + scaled(added, scales_B2, 1)
        return constrain(x, "batch", ...), {"local_norm": seen}


class Bottleneck(nn.Module):
    """Pointwise to `inner`, depthwise, pointwise to `width`, each with its norm.

    {expand, expand_norm, spatial, spatial_norm, project, project_norm}; no activation at the end.
    """

    inner: int
    width: int
    stride: int = 1
    compute: ComputeConfig = ComputeConfig()
    joint: bool = False

    @nn.compact
    def __call__(self, x_BhwC: Float[Array, "B h w C"]) -> tuple[Float[Array, "B _ _ D"], Moments]:
        compute, joint = self.compute, self.joint
        seen: dict[str, Any] = {}
        x = linear(self.inner, compute, "expand", use_bias=False)(x_BhwC)
        x, seen["expand_norm"] = BatchNorm(compute, joint, name="expand_norm")(x)
        x = Depthwise(self.stride, name="spatial")(gelu(x))
        x, seen["spatial_norm"] = BatchNorm(compute, joint, name="spatial_norm")(x)
        x = linear(self.width, compute, "project", use_bias=False)(gelu(x))
        x, seen["project_norm"] = BatchNorm(compute, joint, name="project_norm")(x)
        return x, seen


class Stage(nn.Module):
    """One of the config's stages: {block_00.., downsample}, the last without its downsample.

    Stage 0 has residual bottlenecks for blocks, with the activation after the sum; they are one
    branch each, and follow the first of the two scales of their block.
    """

    config: TinyVitConfig
    number: int
    compute: ComputeConfig = ComputeConfig()
    joint: bool = False

    @nn.compact
    def __call__(
        self, x_BhwD: Float[Array, "B h w D"], scales_LB2: Float[Array, "L B 2"] | None = None
    ) -> tuple[Float[Array, "B _ _ C"], Moments]:
        cfg, i, compute, x = self.config, self.number, self.compute, x_BhwD
        width, common = cfg.widths[i], {"compute": compute, "joint": self.joint}
        seen: dict[str, Any] = {}
        for j in range(cfg.depths[i]):
            name, scales_B2 = f"block_{j:02d}", None if scales_LB2 is None else scales_LB2[j]
            if i == 0:
                bottleneck = block_class(Bottleneck, compute)
                found, seen[name] = bottleneck(_EXPANSION * width, width, **common, name=name)(x)
                x = gelu(x + scaled(found, scales_B2, 0))
            else:
                block = block_class(TinyVitBlock, compute)
                heads, window = cfg.all_heads[i], cfg.windows[i]
                mlp_width = cfg.mlp_ratio * width
                x, seen[name] = block(heads, window, mlp_width, **common, name=name)(x, scales_B2)
        if i == len(cfg.widths) - 1:
            return x, seen
        following = cfg.widths[i + 1]
        stride = 1 if i == len(cfg.widths) - 2 else 2
        downsample = Bottleneck(following, following, stride, **common, name="downsample")
        x, seen["downsample"] = downsample(x)
        return x, seen


class TinyVitEncoder(nn.Module):
    """Normalised pixels to a feature map: {stem_1, stem_1_norm, stem_2.., stage_0.., neck}."""

    config: TinyVitConfig
    compute: ComputeConfig = ComputeConfig()

    def __call__(
        self,
        pixels_BHWC: Float[Array, "B H W 3"],
        scales_LB2: Float[Array, "L B 2"] | None = None,
    ) -> Float[Array, "B h w C"]:
        """Features with `neck_width` channels; ConfigError unless patches tile the image.

        `scales_LB2` is what `ops.drop_path` multiplies the branches of each block by, in the order
        of the stages.
        """
        return self._features(pixels_BHWC, scales_LB2, joint=False)[0]

    def jointly(
        self,
        pixels_BHWC: Float[Array, "B H W 3"],
        scales_LB2: Float[Array, "L B 2"] | None = None,
    ) -> tuple[Float[Array, "B h w C"], Moments]:
        """The same, normalised by what all these pictures have in common, and that."""
        return self._features(pixels_BHWC, scales_LB2, joint=True)

    @nn.compact
    def _features(
        self,
        pixels_BHWC: Float[Array, "B H W 3"],
        scales_LB2: Float[Array, "L B 2"] | None,
        joint: bool,
    ) -> tuple[Float[Array, "B h w C"], Moments]:
        cfg, compute, (_, H, W, _) = self.config, self.compute, pixels_BHWC.shape
        if H % cfg.patch_px or W % cfg.patch_px:
            raise ConfigError(
                f"image is {H} x {W} pixels, but each side must be a multiple of {cfg.patch_px}: "
                "resize, crop or pad it"
            )
        x = _halve(cfg.widths[0] // 2, compute, "stem_1")(pixels_BHWC)
        seen: dict[str, Any] = {}
        x, seen["stem_1_norm"] = BatchNorm(compute, joint, name="stem_1_norm")(x)
        x = _halve(cfg.widths[0], compute, "stem_2")(gelu(x))
        x, seen["stem_2_norm"] = BatchNorm(compute, joint, name="stem_2_norm")(x)
        before = 0
        for i, depth in enumerate(cfg.depths):
            name, its = f"stage_{i}", slice(before, before + depth)
            scales = None if scales_LB2 is None else scales_LB2[its]
            x, seen[name] = Stage(cfg, i, compute, joint, name=name)(x, scales)
            before += depth
        return Neck(cfg.neck_width, compute, name="neck")(x), seen


def _halve(width: int, compute: ComputeConfig, name: str) -> nn.Conv:
    """3x3 convolution of stride 2: {kernel}. A cell is centred on its top-left pixel."""
    return nn.Conv(
        width,
        (3, 3),
        (2, 2),
        padding=1,  # on all sides: "SAME" would pad even sizes at the bottom and right alone
        use_bias=False,
        dtype=jnp.dtype(compute.dtype),
        precision=precision(compute),
        name=name,
    )


def thin(config: TinyVitConfig) -> tuple[TinyVitConfig, list[int]]:
    """The same: its few blocks differ from stage to stage."""
    return config, []


NETWORK = TinyVitEncoder
