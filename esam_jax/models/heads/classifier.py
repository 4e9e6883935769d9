"""A plain ViT that tells classes apart, as MAE fine-tunes one (upstream models_vit.py) or as DeiT
trains one from nothing, with a distillation token or without (upstream models.py)."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from esam_jax.config import ClassifierConfig, ComputeConfig
from esam_jax.models.encoders.vit import VitEncoder
from esam_jax.models.parts.layers import LayerNorm, linear
from esam_jax.ops import images
from esam_jax.typing import Params

# Standard deviations of a head's first weights. Behind a pretrained trunk every class begins as
# likely, whatever the picture (MAE, main_finetune.py); from nothing it begins as DeiT's (models.py
# and timm: a normal distribution that is cut at 100 deviations, which is no cut).
PRETRAINED, SCRATCH = 2e-5, 0.02


class Classifier(nn.Module):
    """Logits of every class: {encoder, class_token, norm, head}, and {token, position, head} in
    `distillation` where the model is distilled.

    `encoder` holds what `VitEncoder` holds, less the neck. Pixels as `ops.images.normalise` gives
    them, whatever `config.pixels` says: they are brought to that here. The class token takes part
    whatever is pooled. The norm follows on pooling, which makes no difference to a token.
    """

    config: ClassifierConfig
    compute: ComputeConfig = ComputeConfig()
    head_std: float = SCRATCH  # of the first weights

    def setup(self) -> None:
        cfg, compute, first = self.config, self.compute, nn.initializers.normal(0.02)
        self.encoder = VitEncoder(cfg.encoder, compute)
        self.class_token = self.param("class_token", first, (cfg.encoder.width,))
        self.norm = LayerNorm(1e-6, compute)
        # What is compared with the target is never rounded to 16 bits.
        exact = dataclasses.replace(compute, dtype="float32")
        draw = nn.initializers.normal(self.head_std)
        self.head = linear(cfg.classes, exact, "head", kernel_init=draw)
        if cfg.pool == "distilled":
            self.distillation = _Distillation(cfg.encoder.width, cfg.classes, exact, draw)

    def __call__(
        self,
        pixels_BHW3: Float[Array, "B H W 3"],
        scales_LB2: Float[Array, "L B 2"] | None = None,
    ) -> Float[Array, "B X"]:
        """float32; the mean of both heads where there are two, of logits as in DeiT's code (its
        paper, section 4, adds softmaxes). `scales_LB2` is what `ops.drop_path` multiplies the
        branches of blocks by."""
        return self.by_head(pixels_BHW3, scales_LB2).mean(0)

    def by_head(
        self,
        pixels_BHW3: Float[Array, "B H W 3"],
        scales_LB2: Float[Array, "L B 2"] | None = None,
    ) -> Float[Array, "_ B X"]:
        """The logits of each head, in training: of the class, and of the distillation token."""
        if self.config.pixels == "symmetric":
            pixels_BHW3 = images.normalise(images.unit(pixels_BHW3), images.HALF, images.HALF)
        second_D = self.distillation.placed() if self.config.pool == "distilled" else None
        x_BND = self.encoder.trunk(pixels_BHW3, None, self.class_token, scales_LB2, second_D)
        if self.config.pool == "mean":
            x_BD = x_BND[:, 1:].astype(jnp.float32).mean(1)
            return self.head(self.norm(x_BD))[None]
        found = [self.head(self.norm(x_BND[:, 0]))]
        if self.config.pool == "distilled":
            found.append(self.distillation.head(self.norm(x_BND[:, 1])))
        return jnp.stack(found)


class _Distillation(nn.Module):
    """A token beside the class token, with its place among positions, and the head that reads it:
    {token, position, head}."""

    width: int
    classes: int
    compute: ComputeConfig
    head_init: nn.initializers.Initializer

    def setup(self) -> None:
        self.token = self.param("token", nn.initializers.normal(0.02), (self.width,))
        # As slot 0 of the table, which is the class token's, begins.
        self.position = self.param("position", nn.initializers.zeros, (self.width,))
        self.head = linear(self.classes, self.compute, "head", kernel_init=self.head_init)

    def placed(self) -> Float[Array, " D"]:
        """The token as blocks take it."""
        return self.token + self.position


def init(config: ClassifierConfig, rng: Key[Array, ""], *, head_std: float = SCRATCH) -> Params:
    """Every parameter of the model, freshly drawn; under `jax.jit` nothing else is computed."""
    px = config.encoder.pretrain_px
    model = Classifier(config, head_std=head_std)
    return model.init(rng, jnp.zeros((1, px, px, 3)))["params"]


def thin(config: ClassifierConfig) -> tuple[ClassifierConfig, dict[str, list[int]]]:
    """The config with one block, which stands for all."""
    small = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, depth=1))
    return small, {"encoder": [0] * config.encoder.depth}


def of_imagenet_pixels(config: ClassifierConfig, params: Params) -> Params:
    """Parameters that compute of pixels with ImageNet's mean and deviation what these compute of
    those that `config.pixels` names: another linear map of patches."""
    if config.pixels == "imagenet":
        return params
    first = params["encoder"]["patch_embed"]
    kernel_YCD = np.reshape(first["kernel"], (-1, 3, config.encoder.width))
    scale, shift = images.STD / images.HALF, (images.MEAN - images.HALF) / images.HALF
    bias = first["bias"] + np.einsum("ycd,c->d", kernel_YCD, shift)
    kernel = (kernel_YCD * scale[:, None]).reshape(-1, config.encoder.width)
    embed = {"kernel": kernel, "bias": bias}
    return {**params, "encoder": {**params["encoder"], "patch_embed": embed}}


NETWORK = Classifier
