"""Two-way transformer: prompt tokens and image cells attend to each other (arXiv:2304.02643, A).

Both originals are wired here: `config/wirings.py` lists the traits in which they differ.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
from jaxtyping import Array, Bool, Float

from esam_jax.config import ComputeConfig, DecoderConfig
from esam_jax.models.parts import layers
from esam_jax.models.sam.query_attention import ImageToTokens, TokensToImage, TokensToTokens
from esam_jax.sharding import constrain

NORM_EPS = 1e-5


class TwoWayTransformer(nn.Module):
    """Tokens and image cells after `depth` rounds and a last look of the tokens at the image.

    The image may come with a query axis of 1: it stays 1 until the first update that depends on
    the prompt, so that what all queries share is computed once. Tokens that are not `seen` only
    fill the shape: nothing attends to them, and their values are not used.
    """

    config: DecoderConfig
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(
        self,
        tokens_BQZE: Float[Array, "B Q Z E"],
        image_BqNE: Float[Array, "B q N E"],
        position_NE: Float[Array, "N E"],
        seen_BQZ: Bool[Array, "B Q Z"] | None = None,
    ) -> tuple[Float[Array, "B Q Z E"], Float[Array, "B Q N E"]]:
        cfg, start_BQZE = self.config, tokens_BQZE  # the tokens are their own position code
        block_class = layers.block_class(TwoWayBlock, self.compute)
        for i in range(cfg.depth):
            block = block_class(cfg, self.compute, first=i == 0, name=f"block_{i:02d}")
            tokens_BQZE, image_BqNE = block(
                tokens_BQZE, image_BqNE, start_BQZE, position_NE, seen_BQZ
            )
            tokens_BQZE = constrain(tokens_BQZE, "batch", ...)
            image_BqNE = constrain(image_BqNE, "batch", ...)
        attend = TokensToImage(cfg, cfg.width // 2, self.compute, name="final_attn")
        tokens_BQZE += attend(tokens_BQZE + start_BQZE, image_BqNE, position_NE)
        norm = layers.LayerNorm(NORM_EPS, self.compute, name="final_norm")
        return norm(tokens_BQZE), image_BqNE


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
        tokens_BQZE: Float[Array, "B Q Z E"],
        image_BqNE: Float[Array, "B q N E"],
        start_BQZE: Float[Array, "B Q Z E"],
        position_NE: Float[Array, "N E"],
        seen_BQZ: Bool[Array, "B Q Z"] | None = None,
    ) -> tuple[Float[Array, "B Q Z E"], Float[Array, "B Q N E"]]:
        cfg, half = self.config, self.config.width // 2

        def norm(name: str) -> layers.LayerNorm:
            return layers.LayerNorm(NORM_EPS, self.compute, name=name)

        x_BQZE = self._self_attention(tokens_BQZE, start_BQZE, seen_BQZ)
        x_BQZE = norm("self_norm")(x_BQZE)

        attend = TokensToImage(cfg, half, self.compute, name="token_to_image")
        x_BQZE += attend(x_BQZE + start_BQZE, image_BqNE, position_NE)
        x_BQZE = norm("token_to_image_norm")(x_BQZE)

        x_BQZE += layers.Mlp(cfg.mlp_width, activation(cfg), self.compute, name="mlp")(x_BQZE)
        x_BQZE = norm("mlp_norm")(x_BQZE)

        attend = ImageToTokens(cfg, half, self.compute, name="image_to_token")
        image_BQNE = image_BqNE + attend(
            image_BqNE, position_NE, x_BQZE + start_BQZE, x_BQZE, seen_BQZ
        )
        return x_BQZE, norm("image_to_token_norm")(image_BQNE)

    def _self_attention(
        self,
        x_BQZE: Float[Array, "B Q Z E"],
        start_BQZE: Float[Array, "B Q Z E"],
        seen_BQZ: Bool[Array, "B Q Z"] | None,
    ) -> Float[Array, "B Q Z E"]:
        attend = TokensToTokens(self.config, self.config.width, self.compute, name="self_attn")
        traits = self.config.traits
        if self.first:  # the tokens are their position code: there is nothing to add yet
            attended_BQZE = attend(x_BQZE, x_BQZE, seen_BQZ)
            return x_BQZE + attended_BQZE if traits.first_residual else attended_BQZE
        placed_BQZE = x_BQZE + start_BQZE
        x_BQZE = placed_BQZE if traits.position_in_values else x_BQZE
        return x_BQZE + attend(placed_BQZE, x_BQZE, seen_BQZ)


def activation(config: DecoderConfig) -> Callable[[Array], Array]:
    """The activation of every MLP of the decoder."""
    return {"relu": jax.nn.relu, "gelu": layers.gelu}[config.traits.activation]
