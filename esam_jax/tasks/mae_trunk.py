"""The trunk of a pretrained ViT (MAE) as the start of SAM's image encoder.

As ViTDet, whose encoder SAM's is (arXiv:2203.16527; arXiv:2304.02643, section A): the blocks are
the same, the class token is left out, positions are fitted to the grid of the larger picture,
patches of 14 pixels are enlarged to 16, and relative positions start at zero.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from esam_jax.config import SamVitConfig, VitConfig
from esam_jax.ops import positions
from esam_jax.typing import Params


def like(found: VitConfig, wanted: SamVitConfig) -> VitConfig:
    """`found` with as many blocks, of the same size, as `wanted`: `found` itself where they fit."""
    return dataclasses.replace(found, width=wanted.width, heads=wanted.heads, depth=wanted.depth)


def of_sam(found: Params, pretrained: VitConfig, wanted: SamVitConfig) -> Params:
    """An MAE's encoder {patch_embed, positions, block_00..} as SAM's, without its neck."""
    grid, per_head, new = wanted.grid, wanted.width // wanted.heads, dict(found)
    new["positions"] = np.asarray(positions.resample(jnp.asarray(found["positions"]), grid, grid))
    new["patch_embed"] = _patches(found["patch_embed"], pretrained.patch_px, wanted.patch_px)
    for i in range(wanted.depth):
        cells = grid if i in wanted.global_blocks else wanted.window
        block = found[f"block_{i:02d}"]
        zeros = np.zeros((2 * cells - 1, per_head), np.float32)
        attn = {**block["attn"], "rel_rows": zeros, "rel_cols": zeros}
        new[f"block_{i:02d}"] = {**block, "attn": attn}
    return new


def _patches(embed: Params, old: int, new: int) -> Params:
    """Rows of the kernel are the pixels of a patch, in raster order, and their three colours."""
    kernel = jnp.asarray(embed["kernel"])
    pixels = kernel.reshape(old, old, -1)
    enlarged = np.asarray(positions.bicubic_resize(pixels, new, new))
    return {**embed, "kernel": enlarged.reshape(new * new * 3, kernel.shape[-1])}
