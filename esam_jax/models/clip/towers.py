"""CLIP's two encoders, of pictures and of texts, into one space (arXiv:2103.00020).

As upstream model.py has them (openai/CLIP): pre-norm blocks with the GELU of a sigmoid and norms of
epsilon 1e-5. Each encoder is one row of features for each picture or text, not normalised.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from esam_jax.config import ClipConfig, ComputeConfig, TextConfig, VitConfig
from esam_jax.models.parts import stack
from esam_jax.models.parts.layers import Attention, Block, LayerNorm, linear
from esam_jax.ops import patches, positions
from esam_jax.typing import Params

_EPS = 1e-5
_FIRST_SCALE = float(np.log(1 / 0.07))  # section 2.5
_START, _END = TextConfig.vocabulary - 2, TextConfig.vocabulary - 1


class Clip(nn.Module):
    """Pictures and texts to features of one space: {encoder, text, logit_scale}.

    What a picture and a text have in common is exp(`logit_scale`) times the cosine of their
    features. `encoder` and `text` hold what `ImageTower` and `TextTower` hold.
    """

    config: ClipConfig
    compute: ComputeConfig = ComputeConfig()

    def setup(self) -> None:
        cfg = self.config
        self.encoder = ImageTower(cfg.encoder, cfg.embed_width, self.compute)
        self.text = TextTower(cfg.text, cfg.embed_width, self.compute)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(_FIRST_SCALE), ())

    def __call__(
        self, pixels_BHW3: Float[Array, "B H W 3"], tokens_XL: Int[Array, "X L"]
    ) -> Float[Array, "B X"]:
        """Logits of every picture with every text."""
        a_BC, b_XC = self.encode_image(pixels_BHW3), self.encode_text(tokens_XL)
        a_BC, b_XC = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (a_BC, b_XC))
        return jnp.exp(self.logit_scale) * jnp.matmul(a_BC, b_XC.T, precision="highest")

    def encode_image(self, pixels_BHW3: Float[Array, "B H W 3"]) -> Float[Array, "B C"]:
        """float32 features of pictures of `image_px` pixels a side, normalised as CLIP's are."""
        return self.encoder(pixels_BHW3).astype(jnp.float32)

    def encode_text(self, tokens_XL: Int[Array, "X L"]) -> Float[Array, "X C"]:
        """float32 features of texts, each with its first end token and anything behind it."""
        return self.text(tokens_XL).astype(jnp.float32)


class ImageTower(nn.Module):
    """Features of pictures: {patch_embed, class_token, positions, pre_norm, block_00.., norm,
    project}.

    The class token stands first and is all that is read at the end.
    """

    config: VitConfig
    features: int
    compute: ComputeConfig = ComputeConfig()

    def setup(self) -> None:
        cfg, compute, first = self.config, self.compute, nn.initializers.normal(0.02)
        self.patch_embed = linear(cfg.width, compute, "patch_embed", use_bias=False)
        self.class_token = self.param("class_token", first, (cfg.width,))
        self.positions = self.param("positions", first, (1 + cfg.pretrain_grid**2, cfg.width))
        self.pre_norm = LayerNorm(_EPS, compute, name="pre_norm")
        self.blocks = _blocks(cfg, compute)
        self.norm = LayerNorm(_EPS, compute, name="norm")
        self.project = linear(self.features, compute, "project", use_bias=False)

    def __call__(self, pixels_BHW3: Float[Array, "B H W 3"]) -> Float[Array, "B C"]:
        return self.project(self.norm(self._through(pixels_BHW3)[:, 0]))

    def tokens(self, pixels_BHW3: Float[Array, "B H W 3"]) -> Float[Array, "B N D"]:
        """The patches after the last norm, in raster order: what CLIP itself reads of the class
        token alone, before it is projected.

        Positions are fitted to a picture of another size.
        """
        return self.norm(self._through(pixels_BHW3))[:, 1:]

    def _through(self, pixels_BHW3: Float[Array, "B H W 3"]) -> Float[Array, "B _ D"]:
        """[class token, patches] after the last block."""
        cfg = self.config
        patches_BhwY = patches.patchify(pixels_BHW3, cfg.patch_px)
        B, h, w, Y = patches_BhwY.shape
        x_BND = self.patch_embed(patches_BhwY.reshape(B, h * w, Y))
        first_B1D = jnp.broadcast_to(self.class_token.astype(x_BND.dtype), (B, 1, cfg.width))
        x_BND = jnp.concatenate([first_B1D, x_BND], axis=1)
        position_ND = positions.resample(self.positions, h, w).reshape(h * w, -1)
        position_SD = jnp.concatenate([self.positions[:1], position_ND])
        x_BND = self.pre_norm(x_BND + position_SD.astype(x_BND.dtype))
        return stack.through(self.blocks, x_BND, compute=self.compute)


class TextTower(nn.Module):
    """Features of texts: {words, positions, block_00.., norm, project}.

    A token attends to itself and those before it. What is read at the end is the first end token,
    which has the largest number of all: what stands behind it changes nothing.
    """

    config: TextConfig
    features: int
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(self, tokens_XL: Int[Array, "X L"]) -> Float[Array, "X C"]:
        cfg, compute = self.config, self.compute
        words_SD = self.param(
            "words", nn.initializers.normal(0.02), (cfg.vocabulary, cfg.width)
        ).astype(compute.dtype)
        positions_SD = self.param(
            "positions", nn.initializers.normal(0.01), (cfg.context, cfg.width)
        ).astype(compute.dtype)
        x_XLD = words_SD[tokens_XL] + positions_SD[: tokens_XL.shape[1]]
        x_XLD = stack.through(_blocks(cfg, compute, causal=True), x_XLD, compute=compute)
        x_XLD = LayerNorm(_EPS, compute, name="norm")(x_XLD)
        ends_X1 = tokens_XL.argmax(-1, keepdims=True)
        x_XD = jnp.take_along_axis(x_XLD, ends_X1[..., None], axis=1)[:, 0]
        return linear(self.features, compute, "project", use_bias=False)(x_XD)


def _blocks(
    config: VitConfig | TextConfig, compute: ComputeConfig, *, causal: bool = False
) -> list[Block]:
    attention = functools.partial(Attention, config.heads, compute, causal=causal)
    width = config.mlp_ratio * config.width
    return [
        Block(attention, width, compute, _EPS, quick_gelu, name=f"block_{i:02d}")
        for i in range(config.depth)
    ]


def quick_gelu(x: Float[Array, "*X"]) -> Float[Array, "*X"]:
    """x sigmoid(1.702 x), in float32: OpenAI's weights expect it in place of the exact GELU."""
    x32 = x.astype(jnp.float32)
    return (x32 * jax.nn.sigmoid(1.702 * x32)).astype(x.dtype)


def init(config: ClipConfig, rng: Key[Array, ""]) -> Params:
    """Every parameter of the model, freshly drawn; under `jax.jit` nothing else is computed."""
    px = config.encoder.image_px
    tokens = jnp.full((1, config.text.context), _END).at[0, 0].set(_START)
    return Clip(config).init(rng, jnp.zeros((1, px, px, 3)), tokens)["params"]


def thin(config: ClipConfig) -> tuple[ClipConfig, dict[str, list[int]]]:
    """The config with one block in each encoder, which stands for all."""
    encoder = dataclasses.replace(config.encoder, depth=1)
    small = dataclasses.replace(
        config, encoder=encoder, text=dataclasses.replace(config.text, depth=1)
    )
    return small, {"encoder": [0] * config.encoder.depth, "text": [0] * config.text.depth}
