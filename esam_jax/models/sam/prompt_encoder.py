"""Prompt encoder: points, boxes and masks to tokens and a dense map (arXiv:2304.02643, section A).

The two originals differ in what padding becomes and in what they can take (`config/wirings.py`):
EfficientSAM, as released, knows neither background points nor masks; SAM takes everything.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from esam_jax import typing as legend
from esam_jax.config import ComputeConfig, SamConfig
from esam_jax.errors import PromptError
from esam_jax.models.parts import layers
from esam_jax.ops import patches, positions


class PromptEncoder(nn.Module):
    """Sparse tokens and a dense map for every query; `dense_position` is the code of the grid.

    Points are (x, y) in pixels of the square model input; labels are those of `typing.py`. A slot
    labelled as padding is meant to lie at (-1, -1): EfficientSAM's wiring reads its position. The
    dense map is None where the model has no mask prompts at all. A text prompt is a feature vector
    of CLIP's of length 1, of an object or of a text.
    """

    config: SamConfig
    compute: ComputeConfig = ComputeConfig()

    def setup(self) -> None:
        cfg = self.config.decoder
        shape, normal = (1, cfg.width), nn.initializers.normal(1.0)
        extra = normal if cfg.traits.extras == "always" else nn.initializers.zeros
        self.fourier = self.param("fourier", normal, (2, cfg.width // 2))
        self.padding = self.param("padding", normal, shape)
        self.foreground = self.param("foreground", normal, shape)
        self.top_left = self.param("top_left", normal, shape)
        self.bottom_right = self.param("bottom_right", normal, shape)
        if cfg.background == "learned":
            self.background = self.param("background", extra, shape)
        if cfg.mask_prompts == "learned":
            self.no_mask = self.param("no_mask", extra, shape)
            self.mask = MaskStem(self.config, self.compute)
        if cfg.text_width is not None:
            self.text = layers.Linear((cfg.width,), 1, True, self.compute, layers.XAVIER)

    def __call__(
        self,
        points_BQP2: Float[Array, "B Q P 2"],
        labels_BQP: Int[Array, "B Q P"],
        mask_logits_BQll: Float[Array, "B Q _ _"] | None = None,
        text_BQT: Float[Array, "B Q T"] | None = None,
    ) -> tuple[Float[Array, "B Q _ C"], Float[Array, "B _ h w C"] | None]:
        if self.config.decoder.traits.fixed_slots:
            points_BQP2, labels_BQP = _fill(
                points_BQP2, labels_BQP, self.config.decoder.point_slots
            )
        sparse = self._points(points_BQP2, labels_BQP)
        if text_BQT is not None:
            sparse = jnp.concatenate([self._text(text_BQT)[:, :, None], sparse], axis=2)
        return sparse, self._dense(points_BQP2.shape[0], mask_logits_BQll)

    def dense_position(self) -> Float[Array, "h w C"]:
        """Position code of the centre of every feature cell."""
        grid = self.config.encoder.grid
        return positions.dense_fourier(jax.lax.stop_gradient(self.fourier), grid, grid)

    def _points(
        self, points_BQP2: Float[Array, "B Q P 2"], labels_BQP: Int[Array, "B Q P"]
    ) -> Float[Array, "B Q P C"]:
        coords = (points_BQP2 + 0.5) / self.config.image_px
        # The matrix is drawn once per trained model and never learned: a buffer in the originals.
        code_BQPC = positions.fourier(coords, jax.lax.stop_gradient(self.fourier))
        label = labels_BQP[..., None]
        if not self.config.decoder.traits.padding_has_position:
            code_BQPC = jnp.where(label == legend.PADDING, 0.0, code_BQPC)
        rows = {
            legend.PADDING: self.padding,
            legend.FOREGROUND: self.foreground,
            legend.TOP_LEFT: self.top_left,
            legend.BOTTOM_RIGHT: self.bottom_right,
        }
        if self.config.decoder.background == "learned":
            rows[legend.BACKGROUND] = self.background
        # Selecting instead of gathering keeps a scatter out of the gradient.
        for number, row in rows.items():
            code_BQPC += jnp.where(label == number, row, 0.0)
        return code_BQPC

    def _text(self, text_BQT: Float[Array, "B Q T"]) -> Float[Array, "B Q C"]:
        """One token more, in front of the others (SAM, section D.5)."""
        width = self.config.decoder.text_width
        if width is None:
            raise PromptError(
                "a text prompt was given, but this model takes none: build it with text_width"
            )
        if text_BQT.shape[2] != width:
            raise PromptError(
                f"a text prompt has {text_BQT.shape[2]} numbers, but this model takes {width}: "
                "give the features of the CLIP that it was trained with"
            )
        return self.text(text_BQT)

    def _dense(
        self, batch: int, mask_logits_BQll: Float[Array, "B Q _ _"] | None
    ) -> Float[Array, "B _ h w C"] | None:
        cfg, grid = self.config.decoder, self.config.encoder.grid
        if cfg.mask_prompts == "none":
            if mask_logits_BQll is not None:
                raise PromptError(
                    "a mask prompt was given, but this model takes none: build it with "
                    'mask_prompts="learned"'
                )
            return None
        if mask_logits_BQll is None:
            return jnp.broadcast_to(self.no_mask, (batch, 1, grid, grid, cfg.width))
        side = self.config.low_res_px
        if mask_logits_BQll.shape[2:] != (side, side):
            raise PromptError(
                f"a mask prompt is {mask_logits_BQll.shape[2]}x{mask_logits_BQll.shape[3]}, but "
                f"this model reads logits of {side}x{side}: give the low-resolution output"
            )
        return self.mask(mask_logits_BQll)


class MaskStem(nn.Module):
    """Feature map of each mask prompt: two 2x2 stride-2 convolutions and a 1x1 one.

    Where the original never had it, the last convolution starts at zero.
    """

    config: SamConfig
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(self, logits_BQll: Float[Array, "B Q l l"]) -> Float[Array, "B Q h w C"]:
        cfg = self.config.decoder
        B, Q, l, _ = logits_BQll.shape
        drawn = cfg.traits.extras == "always"
        kernel = nn.initializers.xavier_uniform() if drawn else nn.initializers.zeros
        x_XhwC = logits_BQll.reshape(B * Q, l, l, 1)
        for i, channels in ((1, cfg.mask_channels // 4), (2, cfg.mask_channels)):
            x_XhwC = patches.patchify(x_XhwC, 2)
            x_XhwC = layers.linear(channels, self.compute, f"conv_{i}")(x_XhwC)
            x_XhwC = layers.LayerNorm(1e-6, self.compute, name=f"norm_{i}")(x_XhwC)
            x_XhwC = layers.gelu(x_XhwC)
        x_XhwC = layers.linear(cfg.width, self.compute, "conv_3", kernel_init=kernel)(x_XhwC)
        return x_XhwC.reshape(B, Q, *x_XhwC.shape[1:])


def _fill(
    points_BQP2: Float[Array, "B Q P 2"], labels_BQP: Int[Array, "B Q P"], slots: int
) -> tuple[Float[Array, "B Q {slots} 2"], Int[Array, "B Q {slots}"]]:
    """Prompts of exactly `slots` points; PromptError where there are more."""
    missing = slots - labels_BQP.shape[2]
    if missing < 0:
        raise PromptError(
            f"a prompt has {labels_BQP.shape[2]} points, but this model takes at most {slots} "
            "(a box counts as two): leave some out"
        )
    pad = ((0, 0), (0, 0), (0, missing))
    return (
        jnp.pad(points_BQP2, (*pad, (0, 0)), constant_values=legend.PADDING_XY),
        jnp.pad(labels_BQP, pad, constant_values=legend.PADDING),
    )
