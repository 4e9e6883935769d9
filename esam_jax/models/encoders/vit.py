"""Plain ViT image encoder of EfficientSAM (arXiv:2312.00863, section 3).

All attention is global, positions are absolute, and no norm follows the last block (upstream
efficient_sam_encoder.py). The trunk alone, on some of the patches, is what SAMI pretrains.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from esam_jax.config import ComputeConfig, VitConfig
from esam_jax.models.parts import stack
from esam_jax.models.parts.kernels import Attention as AttentionKernel
from esam_jax.models.parts.kernels import Convolution, Kernel, Pass, Product
from esam_jax.models.parts.layers import Attention, Block, Neck, linear
from esam_jax.ops import masking, patches, positions


class VitEncoder(nn.Module):
    """Normalised pixels to a feature map: {patch_embed, positions, block_00.., neck}.

    `positions` is learned on the pretraining grid, with slot 0 for a class token. It starts as the
    sine-cosine code, which MAE keeps fixed: so even a network trained from nothing knows at its
    first step where its patches lie.
    """

    config: VitConfig
    compute: ComputeConfig = ComputeConfig()

    def setup(self) -> None:
        cfg = self.config
        attention = functools.partial(Attention, cfg.heads, compute=self.compute)
        self.patch_embed = linear(cfg.width, self.compute, "patch_embed")
        slots = 1 + cfg.pretrain_grid**2
        self.positions = self.param("positions", first_positions, (slots, cfg.width))
        self.blocks = [
            Block(attention, cfg.mlp_ratio * cfg.width, self.compute, name=f"block_{i:02d}")
            for i in range(cfg.depth)
        ]
        self.neck = Neck(cfg.neck_width, self.compute, name="neck")

    def __call__(
        self,
        pixels_BHWC: Float[Array, "B H W 3"],
        scales_LB2: Float[Array, "L B 2"] | None = None,
    ) -> Float[Array, "B h w C"]:
        """Features with `neck_width` channels; ConfigError unless patches tile the image.

        `scales_LB2` is what `ops.drop_path` multiplies the branches of each block by.
        """
        h, w = (size // self.config.patch_px for size in pixels_BHWC.shape[1:3])
        x_BND = self.trunk(pixels_BHWC, scales_LB2=scales_LB2)
        return self.neck(x_BND.reshape(-1, h, w, self.config.width))

    def trunk(
        self,
        pixels_BHWC: Float[Array, "B H W 3"],
        visible_BV: Int[Array, "B V"] | None = None,
        class_token: Float[Array, " D"] | None = None,
        scales_LB2: Float[Array, "L B 2"] | None = None,
        second_token: Float[Array, " D"] | None = None,
    ) -> Float[Array, "B N D"]:
        """Tokens after the last block, raster order.

        `visible_BV` keeps only the patches with these raster indices, in this order. A class token,
        if given, takes part with the position of slot 0 and comes back first; a second token, which
        holds its own position, comes behind it.
        """
        x_BND = self._embedded(pixels_BHWC, visible_BV, class_token, second_token)
        return stack.through(self.blocks, x_BND, compute=self.compute, own=scales_LB2)

    def trunk_in_two(
        self,
        pixels_BHWC: Float[Array, "B H W 3"],
        visible_BV: Int[Array, "B V"] | None,
        class_token: Float[Array, " D"],
        depth: int,
    ) -> tuple[Float[Array, "B _ D"], Float[Array, "B _ D"]]:
        """Tokens after the first `depth` blocks, and after the last, as `trunk` has them."""
        x_BND = self._embedded(pixels_BHWC, visible_BV, class_token)
        early_BND = stack.through(self.blocks[:depth], x_BND, compute=self.compute)
        if depth == len(self.blocks):
            return early_BND, early_BND
        return early_BND, stack.through(self.blocks[depth:], early_BND, compute=self.compute)

    def _embedded(
        self,
        pixels_BHWC: Float[Array, "B H W 3"],
        visible_BV: Int[Array, "B V"] | None,
        class_token: Float[Array, " D"] | None,
        second_token: Float[Array, " D"] | None = None,
    ) -> Float[Array, "B _ D"]:
        """What enters the first block."""
        patches_BhwY = patches.patchify(pixels_BHWC, self.config.patch_px)
        B, h, w, Y = patches_BhwY.shape
        # The table was learned on the pretraining grid, so fit it to this image's.
        position = positions.resample(self.positions, h, w).reshape(h * w, -1)
        patches_BNY = patches_BhwY.reshape(B, h * w, Y)
        if visible_BV is not None:
            patches_BNY, position = masking.gather(patches_BNY, visible_BV), position[visible_BV]
        x_BND = self.patch_embed(patches_BNY)
        x_BND = x_BND + position.astype(x_BND.dtype)
        if class_token is not None:
            tokens = [class_token + self.positions[0]]
            tokens += [] if second_token is None else [second_token]
            first_LD = jnp.stack(tokens).astype(x_BND.dtype)
            first_BLD = jnp.broadcast_to(first_LD, (B, *first_LD.shape))
            x_BND = jnp.concatenate([first_BLD, x_BND], axis=1)
        return x_BND


def first_positions(rng: jax.Array, shape: tuple[int, int]) -> Float[Array, "S D"]:
    """The sine-cosine code of a square grid, behind a slot of zeros for the class token."""
    slots, width = shape
    side = int((slots - 1) ** 0.5)
    return jnp.pad(jnp.asarray(positions.sincos(side, side, width)), ((1, 0), (0, 0)))


def kernels(config: VitConfig) -> list[Kernel]:
    """One picture's, with activations and residuals as part of the product before them."""
    N, D, C = config.grid**2, config.width, config.neck_width
    hidden = config.mlp_ratio * D
    block = [
        Pass(N * D),
        Pass(N * D),
        Product(N, D, 3 * D),
        AttentionKernel(N, config.heads, D // config.heads),
        Product(N, D, D, residual=D),
        Product(N, D, hidden),
        Product(N, hidden, D, residual=D),
    ]
    neck = [Product(N, D, C), Convolution(N, C), Pass(N * C), Pass(N * C)]
    return [Product(N, 3 * config.patch_px**2, D), *(config.depth * block), *neck]


def thin(config: VitConfig) -> tuple[VitConfig, list[int]]:
    """One block stands for all: they have the same shapes."""
    return dataclasses.replace(config, depth=1), [0] * config.depth


NETWORK = VitEncoder
