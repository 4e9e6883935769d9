"""Attention on TPUs by the splash kernel that JAX ships (Pallas): no score leaves the chip.

Heads are passed as wide as they are. A TPU keeps arrays in tiles of 128 lanes, so that a head of 64
is padded by its layout, without a pass over memory. Two such heads side by side in one tile would
halve the bytes of keys and values, but the matrix unit would run as often: each head needs passes
of its own for each block of scores, whether 64 or 128 lanes of them are in use. And those take the
time: the 9 GFLOP of 4096 tokens take a v5e 44 microseconds a head, their 4 MiB 5.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

LANES = 128  # the kernel takes tokens in multiples of this
WIDEST = 256  # heads for which the blocks below fit the chip's own memory, v4 to v6e
BLOCK = 1024  # tokens that a step of the grid holds; it starts in a third of a microsecond
COMPUTED = 512  # keys that it computes at once

Axes = str | tuple[str, ...] | None


def attend(
    q: Float[Array, "X N A K"],
    k: Float[Array, "X J A K"],
    v: Float[Array, "X J A C"],
    *,
    split: tuple[Axes, Axes] = (None, None),
    name: str | None = None,
    interpret: bool = False,
) -> Float[Array, "X N A C"]:
    """Softmax(q k^T) v per head, unscaled, with gradients; scores and sums are float32.

    No compiler splits a kernel over devices, and JAX refuses one in a program of several. Within a
    mesh each device runs it on its own part: `split` names the axes of the mesh that cut X, and
    those that cut the heads; where they do not divide, every device computes all. A policy of
    recomputation may keep what `name` marks: the result and the logarithms of the sums. With
    `interpret` the kernel runs as plain JAX, where there is no TPU.
    """

    def here(q: Array, k: Array, v: Array) -> Array:
        return _on_one_device(q, k, v, name, interpret)

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return here(q, k, v)
    images, heads = (
        axes if size % _parts(mesh, axes) == 0 else None
        for size, axes in zip((q.shape[0], q.shape[2]), split, strict=True)
    )
    spec = PartitionSpec(images, None, heads, None)
    # What a kernel gives has no record of the axes over which it varies, which the check needs.
    return jax.shard_map(
        here, mesh=mesh, in_specs=(spec, spec, spec), out_specs=spec, check_vma=False
    )(q, k, v)


def _parts(mesh: jax.sharding.AbstractMesh, axes: Axes) -> int:
    names = () if axes is None else (axes,) if isinstance(axes, str) else axes
    return math.prod(mesh.shape[name] for name in names)


def _on_one_device(
    q: Float[Array, "X N A K"],
    k: Float[Array, "X J A K"],
    v: Float[Array, "X J A C"],
    name: str | None,
    interpret: bool,
) -> Float[Array, "X N A C"]:
    # Here, because Pallas takes half a second to import, which every other machine would wait for.
    from jax.experimental.pallas.ops.tpu import splash_attention
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    queries, keys, heads = q.shape[1], k.shape[1], q.shape[2]
    rows, columns = (tokens + -tokens % LANES for tokens in (queries, keys))
    kernel = splash_attention.make_splash_mha_single_device(
        masks.MultiHeadMask([masks.FullMask((rows, columns))] * heads),
        block_sizes=_blocks(rows, columns),
        residual_checkpoint_name=name,
        interpret=interpret,
    )
    segments = None
    if columns > keys:  # tokens see those of their own segment: no query sees the padding
        padding = (jnp.arange(columns) >= keys).astype(jnp.int32)
        segments = splash_attention.SegmentIds(jnp.zeros(rows, jnp.int32), padding)

    def padded(x: Array, tokens: int) -> Array:
        x = jnp.pad(x, ((0, 0), (0, tokens - x.shape[1]), (0, 0), (0, 0)))
        return jnp.swapaxes(x, 1, 2)

    def one(q: Array, k: Array, v: Array) -> Any:
        return kernel(q, k, v, segment_ids=segments)

    out = jax.vmap(one)(padded(q, rows), padded(k, columns), padded(v, columns))
    return jnp.swapaxes(out, 1, 2)[:, :queries]


def _blocks(rows: int, columns: int) -> Any:
    """`BlockSizes` of the kernel and of its two backward kernels."""
    from jax.experimental.pallas.ops.tpu.splash_attention import BlockSizes

    block_q, block_kv = _divisor(rows, BLOCK), _divisor(columns, BLOCK)
    computed = _divisor(block_kv, COMPUTED)
    return BlockSizes(
        block_q=block_q,
        block_kv=block_kv,
        block_kv_compute=computed,
        block_q_dkv=block_q,
        block_kv_dkv=block_kv,
        block_kv_dkv_compute=computed,
        block_q_dq=block_q,
        block_kv_dq=computed,  # it computes all keys that it holds
    )


def _divisor(tokens: int, most: int) -> int:
    """The largest multiple of LANES up to `most` that divides `tokens`, itself one."""
    return next(size for size in range(most, 0, -LANES) if tokens % size == 0)
