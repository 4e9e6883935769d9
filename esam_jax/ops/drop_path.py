"""Drop path, or stochastic depth (arXiv:1603.09382): branches of blocks left out at random."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def scales(uniform_BL2: Float[Array, "B L 2"], rate: float) -> Float[Array, "L B 2"]:
    """What both branches of each block are multiplied by: 0, or 1 over the chance of being kept.

    `uniform_BL2` is drawn from [0, 1). The chance of being left out rises evenly from 0 in the
    first block to `rate` in the last, as in timm and detectron2.
    """
    left_out_L11 = np.linspace(0.0, rate, uniform_BL2.shape[1], dtype=np.float32)[:, None, None]
    kept_LB2 = jnp.moveaxis(uniform_BL2, 1, 0) >= left_out_L11
    return kept_LB2 / (1.0 - left_out_L11)
