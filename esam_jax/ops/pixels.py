"""A pixel of a region, each with the same chance. Traceable, in fixed shapes."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt32


def uniform(
    bits: UInt32[Array, "*X"], regions: Bool[Array, "*X H W"]
) -> tuple[Int[Array, "*X 2"], Bool[Array, "*X"]]:
    """Column and row of a pixel of each region, and whether the region has any.

    `bits` are 32 random ones for each region. Counted out in reading order, so that no array as
    large as the regions is made besides sums over rows. A remainder of 32 bits prefers no pixel of
    a megapixel by more than a share of 2**-12.
    """
    in_rows = regions.sum(-1, dtype=jnp.int32)
    up_to_row = jnp.cumsum(in_rows, -1)
    area = up_to_row[..., -1]
    number = (bits % jnp.maximum(area, 1).astype(jnp.uint32)).astype(jnp.int32)
    # The last row and column stand for an empty region; they mean nothing.
    last_row, last_column = (size - 1 for size in regions.shape[-2:])
    y = jnp.minimum((up_to_row <= number[..., None]).sum(-1, dtype=jnp.int32), last_row)
    before = jnp.take_along_axis(up_to_row - in_rows, y[..., None], -1)[..., 0]
    row = jnp.take_along_axis(regions, y[..., None, None], -2)[..., 0, :]
    up_to_column = jnp.cumsum(row, -1, dtype=jnp.int32)
    x = (up_to_column <= (number - before)[..., None]).sum(-1, dtype=jnp.int32)
    return jnp.stack([jnp.minimum(x, last_column), y], -1), area > 0
