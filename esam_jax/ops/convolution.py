"""Convolutions that the compilers' own are slow at: depthwise on a CPU, in groups on a mesh."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float


def depthwise(
    x_BhwC: Float[Array, "B h w C"], kernel_ssC: Float[Array, "s s C"], stride: int = 1
) -> Float[Array, "B _ _ C"]:
    """Each channel correlated with its own square of odd size; zeros around the map, s // 2 a side.

    Every `stride`-th row and column is kept, from the first. The result is float32. One product a
    tap, which compilers fuse: on CPUs some ten times as fast as their grouped convolution.
    """
    (_, h, w, _), side = x_BhwC.shape, kernel_ssC.shape[0]
    reach = side // 2
    padded = jnp.pad(x_BhwC, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    taps = [
        padded[:, i : i + h : stride, j : j + w : stride].astype(jnp.float32) * kernel_ssC[i, j]
        for i in range(side)
        for j in range(side)
    ]
    return sum(taps[1:], start=taps[0])


def grouped(
    x_BhwC: Float[Array, "B h w C"],
    kernel_ssKD: Float[Array, "s s K D"],
    stride: int = 1,
    *,
    precision: lax.Precision | None = None,
    split: tuple[str, ...] = (),
) -> Float[Array, "B _ _ D"]:
    """Each group of K channels correlated with its own part of the kernel, whose side is odd; zeros
    around the map, s // 2 a side.

    The compiler divides no such convolution over devices: it would collect the complete batch on
    each (jaxlib 0.10.2: an all-gather for every one). Within a mesh each device computes its own
    part instead; `split` names the axes of the mesh that cut the batch.
    """
    (B, _, _, C), (side, _, width, _) = x_BhwC.shape, kernel_ssKD.shape

    def here(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            ((side // 2, side // 2),) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=C // width,
            precision=precision,
        )

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return here(x_BhwC, kernel_ssKD)
    divides = B % math.prod(mesh.shape[axis] for axis in split) == 0
    rows = PartitionSpec(split if divides else None)
    return jax.shard_map(here, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows)(
        x_BhwC, kernel_ssKD
    )
