"""Image to patches; a patch is the flattened (row, column, channel) of its pixels."""

import einops
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Shaped

from esam_jax.errors import ConfigError


def patchify(
    image_BHWC: Shaped[Array, "B H W C"], patch_px: int
) -> Shaped[Array, "B h w {patch_px**2}*C"]:
    """Non-overlapping squares of `patch_px` pixels.

    ConfigError unless patches tile the image exactly.
    """
    height, width = image_BHWC.shape[1:3]
    if height % patch_px or width % patch_px:
        raise ConfigError(
            f"image is {height} x {width} pixels, but each side must be a multiple of {patch_px}: "
            "resize, crop or pad it"
        )
    return einops.rearrange(image_BHWC, "b (h p) (w q) c -> b h w (p q c)", p=patch_px, q=patch_px)


def standardise(patches_XY: Float[Array, "*X Y"]) -> Float[Array, "*X Y"]:
    """Each patch minus its mean, divided by its deviation, in float32 (MAE, norm_pix_loss).

    The variance is the unbiased one, divided by one less than the number of values, plus 1e-6.
    """
    patches_XY = patches_XY.astype(jnp.float32)
    centred = patches_XY - patches_XY.mean(-1, keepdims=True)
    variance = (centred**2).sum(-1, keepdims=True) / (patches_XY.shape[-1] - 1)
    return centred * lax.rsqrt(variance + 1e-6)
