"""Image to patches; a patch is the flattened (row, column, channel) of its pixels."""

import einops
from jaxtyping import Array, Shaped

from esam_jax.errors import ConfigError


def patchify(
    image_BHWC: Shaped[Array, "B H W C"], patch_px: int
) -> Shaped[Array, "B h w {patch_px**2}*C"]:
    """Non-overlapping squares of `patch_px` pixels.

    ConfigError unless whole patches tile the image.
    """
    height, width = image_BHWC.shape[1:3]
    if height % patch_px or width % patch_px:
        raise ConfigError(
            f"image is {height} x {width} pixels, but must be whole patches of {patch_px}: "
            "resize, crop or pad it"
        )
    return einops.rearrange(image_BHWC, "b (h p) (w q) c -> b h w (p q c)", p=patch_px, q=patch_px)
