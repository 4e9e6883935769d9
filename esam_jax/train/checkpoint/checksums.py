"""One number for each array, which any changed bit or moved element changes.

Each element's bits are hashed together with its position in the global array, and the hashes are
added modulo 2 ** 32. The order of a sum does not matter, so the number is the same for every
sharding, on devices and on the host; the position does, so permuted chunks and swapped rows show.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esam_jax import sharding

_BLOCK = 1 << 16  # words that NumPy hashes at once: the intermediate results stay in the cache
# MurmurHash3's 32-bit finalizer (Austin Appleby, public domain); the odd part of 2 ** 32 / golden
# ratio spreads positions.
_SPREAD = np.uint32(0x9E3779B9)
_MULTIPLIERS = (np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35))


def of(tree: Any) -> dict[str, int]:
    """The number of every leaf by its path, wherever the leaves are."""
    leaves = jax.tree.leaves(tree)
    near = all(
        leaf.is_fully_addressable and next(iter(leaf.devices())).platform == "cpu"
        for leaf in leaves
    )
    # NumPy needs no compilation, which takes longer than the sums of a small model.
    return on_host(jax.device_get(tree)) if near else on_devices(tree)


def on_devices(tree: Any) -> dict[str, int]:
    """The numbers as `of`, where each device reads its own pieces; all on the same devices."""
    return _by_path(tree, lambda leaves: jax.device_get(_array_sums(leaves)))


def on_host(tree: Any) -> dict[str, int]:
    """The numbers as `of`, of NumPy arrays."""
    return _by_path(tree, lambda leaves: [of_array(leaf) for leaf in leaves])


def word_sums(tree: Any) -> dict[str, int]:
    """The numbers of the first format, sums of the bits alone; for checkpoints that hold them."""
    return _by_path(tree, lambda leaves: jax.device_get(_word_sums(leaves)))


def _by_path(tree: Any, numbers_of: Callable[[list[Any]], Any]) -> dict[str, int]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        return {}
    numbers = numbers_of([leaf for _, leaf in leaves])
    return {
        sharding.name(path): int(number) for (path, _), number in zip(leaves, numbers, strict=True)
    }


@jax.jit
def array_sum(x: jax.Array) -> jax.Array:
    """Sum of the hashed elements modulo 2 ** 32; of a global array, whatever its sharding."""
    words = _words(x)
    position = jnp.zeros(words.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(words.ndim)):
        steps = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        position += steps * np.uint32(stride % 2**32)
        stride *= words.shape[axis]
    return jnp.sum(_mix(words, position), dtype=jnp.uint32)


# One program: hundreds at once, each of which waits for other hosts, can wait for each other for
# ever on CPUs, whose devices share a few threads and take programs in an order of their own.
@jax.jit
def _array_sums(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([array_sum(leaf) for leaf in leaves])


def of_array(x: np.ndarray) -> int:
    """As `array_sum`, of a NumPy array."""
    x = np.ascontiguousarray(x).reshape(-1)
    words = x.view(f"uint{8 * x.dtype.itemsize}" if x.dtype.itemsize < 4 else "uint32")
    steps, total = np.arange(min(_BLOCK, words.size), dtype=np.uint32), 0
    for start in range(0, words.size, _BLOCK):
        block = words[start : start + _BLOCK]
        position = steps[: block.size] + np.uint32(start % 2**32)
        total += int(np.sum(_mix(block, position), dtype=np.uint32))
    return total % 2**32


def _mix(words: Any, position: Any) -> Any:
    """A hash of each word and its position; for one position, no two words have the same."""
    x = position * _SPREAD
    x ^= words  # NumPy does these in place, which takes two thirds of the time
    x ^= x >> np.uint32(16)
    x *= _MULTIPLIERS[0]
    x ^= x >> np.uint32(13)
    x *= _MULTIPLIERS[1]
    x ^= x >> np.uint32(16)
    return x


def _words(x: jax.Array) -> jax.Array:
    """The bits of each element as uint32; elements of 8 bytes are two words along a last axis."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    narrow = f"uint{8 * x.dtype.itemsize}" if x.dtype.itemsize < 4 else "uint32"
    return jax.lax.bitcast_convert_type(x, jnp.dtype(narrow)).astype(jnp.uint32)


@jax.jit
def word_sum(x: jax.Array) -> jax.Array:
    """Sum of the bit patterns modulo 2 ** 32: the first format, which misses moved elements."""
    words = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))
    return jnp.sum(words, dtype=jnp.uint32)


@jax.jit
def _word_sums(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([word_sum(leaf) for leaf in leaves])
