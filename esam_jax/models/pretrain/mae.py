"""MAE: a ViT rebuilds the pixels of the patches it has not seen (arXiv:2111.06377).

As upstream models_mae.py computes it, for its released weights: the encoder sees the visible
patches behind a class token; in the decoder one learned token stands for every patch that was
removed. Without a decoder this is the plain pretrained ViT whose layout timm shares.
"""

import dataclasses
import functools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from esam_jax.config import ComputeConfig, MaeConfig, PretrainDecoderConfig
from esam_jax.errors import ConfigError
from esam_jax.models.encoders.vit import VitEncoder, first_positions
from esam_jax.models.parts import stack
from esam_jax.models.parts.layers import Attention, Block, LayerNorm, linear
from esam_jax.ops import masking, positions
from esam_jax.typing import Params


class Mae(nn.Module):
    """{encoder, class_token, norm}, and with a decoder {embed, mask_token, decoder, head}.

    `encoder` holds what `VitEncoder` holds, less the neck. Pixels as `ops.images.normalise` gives
    them. Both position tables start as the sine-cosine code, which upstream keeps fixed.
    """

    config: MaeConfig
    compute: ComputeConfig = ComputeConfig()

    def setup(self) -> None:
        cfg, compute = self.config, self.compute
        first = nn.initializers.normal(0.02)
        self.encoder = VitEncoder(cfg.encoder, compute)
        self.class_token = self.param("class_token", first, (cfg.encoder.width,))
        self.norm = LayerNorm(1e-6, compute)
        if cfg.decoder is not None:
            self.embed = linear(cfg.decoder.width, compute, "embed")
            self.mask_token = self.param("mask_token", first, (cfg.decoder.width,))
            self.decoder = MaeDecoder(cfg.decoder, 1 + cfg.encoder.pretrain_grid**2, compute)
            # What is compared with the target is never rounded to 16 bits.
            exact = dataclasses.replace(compute, dtype="float32")
            self.head = linear(3 * cfg.encoder.patch_px**2, exact, "head")

    def encode(
        self, pixels_BHWC: Float[Array, "B H W 3"], visible_BV: Int[Array, "B V"] | None = None
    ) -> Float[Array, "B _ D"]:
        """The class token, then the patches, after the last norm.

        `visible_BV` keeps the patches with these raster indices, in this order; None keeps all, in
        raster order.
        """
        return self.norm(self.encoder.trunk(pixels_BHWC, visible_BV, self.class_token))

    def __call__(
        self,
        pixels_BHWC: Float[Array, "B H W 3"],
        visible_BV: Int[Array, "B V"],
        masked_BU: Int[Array, "B U"],
    ) -> Float[Array, "B N Y"]:
        """Predicted pixels of every patch in raster order, Y as `ops.patches.patchify` has them.

        `visible_BV` and `masked_BU` together name each patch of the image once, by raster index.
        ConfigError for a model without a decoder.
        """
        x = self.encode(pixels_BHWC, visible_BV)
        return self._rebuilt(x, visible_BV, masked_BU, pixels_BHWC.shape[1:3])

    def rebuild_and_look(
        self,
        pixels_BHWC: Float[Array, "B H W 3"],
        visible_BV: Int[Array, "B V"],
        masked_BU: Int[Array, "B U"],
        depth: int,
    ) -> tuple[Float[Array, "B N Y"], Float[Array, "B _ D"]]:
        """As `__call__`, and [class token, visible patches] after `depth` blocks of the encoder."""
        args = pixels_BHWC, visible_BV, self.class_token, depth
        early, x = self.encoder.trunk_in_two(*args)
        return self._rebuilt(self.norm(x), visible_BV, masked_BU, pixels_BHWC.shape[1:3]), early

    def _rebuilt(
        self,
        x: Float[Array, "B _ D"],
        visible_BV: Int[Array, "B V"],
        masked_BU: Int[Array, "B U"],
        size: tuple[int, ...],
    ) -> Float[Array, "B N Y"]:
        if self.config.decoder is None:
            raise ConfigError("decoder is None, so nothing is predicted: call `encode`")
        h, w = (side // self.config.encoder.patch_px for side in size)
        x = self.embed(x)
        class_B1E, x_BVE = x[:, :1], x[:, 1:]
        token_E = self.mask_token.astype(x.dtype)
        removed_BUE = jnp.broadcast_to(token_E, (*masked_BU.shape, token_E.size))
        merged_BNE = jnp.concatenate([x_BVE, removed_BUE], axis=1)
        x_BNE = masking.restore(merged_BNE, masking.order(visible_BV, masked_BU))
        x = self.decoder(jnp.concatenate([class_B1E, x_BNE], axis=1), (h, w))
        return self.head(x[:, 1:])


class MaeDecoder(nn.Module):
    """[class token, patches in raster order] to the same: {positions, block_00.., norm}.

    `positions` has `slots` of them, slot 0 for the class token, as in the encoder.
    """

    config: PretrainDecoderConfig
    slots: int
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(
        self, x: Float[Array, "B {1+grid[0]*grid[1]} E"], grid: tuple[int, int]
    ) -> Float[Array, "B {1+grid[0]*grid[1]} E"]:
        cfg, compute = self.config, self.compute
        table_SE = self.param("positions", first_positions, (self.slots, cfg.width))
        patches_NE = positions.resample(table_SE, *grid).reshape(-1, cfg.width)
        x = x + jnp.concatenate([table_SE[:1], patches_NE]).astype(x.dtype)
        attention = functools.partial(Attention, cfg.heads, compute=compute)
        mlp_width = cfg.mlp_ratio * cfg.width
        blocks = [
            Block(attention, mlp_width, compute, name=f"block_{i:02d}") for i in range(cfg.depth)
        ]
        x = stack.through(blocks, x, compute=compute)
        return LayerNorm(1e-6, compute, name="norm")(x)


def init(config: MaeConfig, rng: Key[Array, ""]) -> Params:
    """Every parameter of the model, freshly drawn; under `jax.jit` nothing else is computed."""
    px, model = config.encoder.pretrain_px, Mae(config)
    pixels = jnp.zeros((1, px, px, 3))
    if config.decoder is None:
        return model.init(rng, pixels, method=Mae.encode)["params"]
    tokens = jnp.arange(config.encoder.pretrain_grid**2)[None]
    return model.init(rng, pixels, tokens[:, :1], tokens[:, 1:])["params"]


def thin(config: MaeConfig) -> tuple[MaeConfig, dict[str, list[int]]]:
    """The config with one block in each half, which stands for all blocks of that half."""
    runs = {"encoder": [0] * config.encoder.depth}
    small = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, depth=1))
    if config.decoder is None:
        return small, runs
    decoder = dataclasses.replace(config.decoder, depth=1)
    runs["decoder"] = [0] * config.decoder.depth
    return dataclasses.replace(small, decoder=decoder), runs
