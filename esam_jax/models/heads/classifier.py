"""A plain ViT that tells classes apart, as MAE fine-tunes one (upstream models_vit.py)."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from esam_jax.config import ClassifierConfig, ComputeConfig
from esam_jax.models.encoders.vit import VitEncoder
from esam_jax.models.parts.layers import LayerNorm, linear
from esam_jax.typing import Params

_FIRST_WEIGHTS = nn.initializers.normal(2e-5)  # of the head: every class is as likely


class Classifier(nn.Module):
    """Logits of every class: {encoder, class_token, norm, head}.

    `encoder` holds what `VitEncoder` holds, less the neck. Pixels as `ops.images.normalise` gives
    them. The class token takes part whatever is pooled. The norm follows on pooling, which makes
    no difference to a class token.
    """

    config: ClassifierConfig
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(
        self,
        pixels_BHW3: Float[Array, "B H W 3"],
        scales_LB2: Float[Array, "L B 2"] | None = None,
    ) -> Float[Array, "B X"]:
        """float32. `scales_LB2` is what `ops.drop_path` multiplies the branches of blocks by."""
        cfg = self.config
        token_D = self.param("class_token", nn.initializers.normal(0.02), (cfg.encoder.width,))
        encoder = VitEncoder(cfg.encoder, self.compute, name="encoder")
        x_BND = encoder.trunk(pixels_BHW3, None, token_D, scales_LB2)
        if cfg.pool == "mean":
            x_BD = x_BND[:, 1:].astype(jnp.float32).mean(1)
        else:
            x_BD = x_BND[:, 0]
        x_BD = LayerNorm(1e-6, self.compute, name="norm")(x_BD)
        # What is compared with the target is never rounded to 16 bits.
        exact = dataclasses.replace(self.compute, dtype="float32")
        return linear(cfg.classes, exact, "head", kernel_init=_FIRST_WEIGHTS)(x_BD)


def init(config: ClassifierConfig, rng: Key[Array, ""]) -> Params:
    """Every parameter of the model, freshly drawn; under `jax.jit` nothing else is computed."""
    px = config.encoder.pretrain_px
    return Classifier(config).init(rng, jnp.zeros((1, px, px, 3)))["params"]


def thin(config: ClassifierConfig) -> tuple[ClassifierConfig, dict[str, list[int]]]:
    """The config with one block, which stands for all."""
    small = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, depth=1))
    return small, {"encoder": [0] * config.encoder.depth}
