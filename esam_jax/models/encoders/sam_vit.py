"""SAM's image encoder: windowed ViT with relative positions (arXiv:2304.02643; image_encoder.py).

Works at any multiple of the patch size: tables learned for another grid are resampled,
the absolute ones bicubically, the relative ones linearly (at 224 pixels it is SAMI's teacher).
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from esam_jax.config import ComputeConfig, SamVitConfig
from esam_jax.models.parts import stack
from esam_jax.models.parts.layers import Block, Neck, attend, linear, precision
from esam_jax.ops import attention, patches, positions


class RelativeAttention(nn.Module):
    """Attention over a grid: {query, key, value, out, rel_rows, rel_cols}.

    With a `window`, cells see only their window of that many cells a side. The grid is padded with
    zeros to full windows. As in the original, the padding is not masked: its keys and values equal
    the biases. `table_grid` is the side that the tables were learned for.
    """

    heads: int
    window: int | None
    table_grid: int
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(self, x_BhwD: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        if self.window is None:
            return self._whole(x_BhwD)
        _, h, w, _ = x_BhwD.shape
        windows, padded = attention.to_windows(x_BhwD, self.window)
        return attention.from_windows(self._whole(windows), padded, (h, w))

    def _whole(self, x_BhwD: Float[Array, "B h w D"]) -> Float[Array, "B h w D"]:
        (B, h, w, D), compute = x_BhwD.shape, self.compute
        per_head = (self.heads, D // self.heads)
        x_BND = x_BhwD.reshape(B, h * w, D)
        q, k, v = (linear(per_head, compute, name)(x_BND) for name in ("query", "key", "value"))
        shape = (2 * self.table_grid - 1, per_head[1])
        rel_rows = self.param("rel_rows", nn.initializers.zeros, shape)
        rel_cols = self.param("rel_cols", nn.initializers.zeros, shape)
        q, k = attention.fold_relative_positions(
            q, k, rel_rows, rel_cols, (h, w), per_head[1] ** -0.5, precision(compute)
        )
        mixed = attend(q, k, v, compute, scale=1.0)
        return linear(D, compute, "out", axes=2)(mixed).reshape(B, h, w, D)


class SamVitEncoder(nn.Module):
    """Normalised pixels to a feature map: {patch_embed, positions, block_00.., neck}.

    `positions` [g, g, D] starts as the sine-cosine code, for the reason given in `VitEncoder`.
    """

    config: SamVitConfig
    compute: ComputeConfig = ComputeConfig()

    def setup(self) -> None:
        cfg = self.config
        self.patch_embed = linear(cfg.width, self.compute, "patch_embed")
        self.positions = self.param("positions", _first_positions, (cfg.grid, cfg.grid, cfg.width))
        self.blocks = [self._block(i) for i in range(cfg.depth)]
        self.neck = Neck(cfg.neck_width, self.compute, name="neck")

    def _block(self, i: int) -> nn.Module:
        cfg = self.config
        window = None if i in cfg.global_blocks else cfg.window
        module = functools.partial(
            RelativeAttention, cfg.heads, window, window or cfg.grid, self.compute
        )
        return Block(module, cfg.mlp_ratio * cfg.width, self.compute, name=f"block_{i:02d}")

    def __call__(
        self,
        pixels_BHWC: Float[Array, "B H W 3"],
        scales_LB2: Float[Array, "L B 2"] | None = None,
    ) -> Float[Array, "B h w C"]:
        """Features with `neck_width` channels; ConfigError unless patches tile the image.

        `scales_LB2` is what `ops.drop_path` multiplies the branches of each block by.
        """
        return self.neck(self.trunk(pixels_BHWC, scales_LB2))

    def trunk(
        self,
        pixels_BHWC: Float[Array, "B H W 3"],
        scales_LB2: Float[Array, "L B 2"] | None = None,
    ) -> Float[Array, "B h w D"]:
        """Features after the last block, before the neck."""
        patches_BhwY = patches.patchify(pixels_BHWC, self.config.patch_px)
        x_BhwD = self.patch_embed(patches_BhwY)
        table_hwD = positions.bicubic_resize(self.positions, *x_BhwD.shape[1:3])
        x_BhwD = x_BhwD + table_hwD.astype(x_BhwD.dtype)
        kinds = [i in self.config.global_blocks for i in range(self.config.depth)]
        return stack.through(self.blocks, x_BhwD, compute=self.compute, kinds=kinds, own=scales_LB2)


def _first_positions(rng: jax.Array, shape: tuple[int, int, int]) -> Float[Array, "h w D"]:
    return jnp.asarray(positions.sincos(*shape)).reshape(shape)


def thin(config: SamVitConfig) -> tuple[SamVitConfig, list[int]]:
    """One windowed block, and one global block, which has longer tables of positions."""
    is_global = [i in config.global_blocks for i in range(config.depth)]
    shapes = sorted(set(is_global))
    global_blocks = tuple(i for i, each in enumerate(shapes) if each)
    stands_for = [shapes.index(each) for each in is_global]
    return dataclasses.replace(config, depth=len(shapes), global_blocks=global_blocks), stands_for


NETWORK = SamVitEncoder
