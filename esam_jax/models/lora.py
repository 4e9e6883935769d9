"""Low-rank pairs beside the attention kernels of an image encoder (LoRA, arXiv:2106.09685).

A pair {a, b} stands for a change of one kernel, W + alpha / rank * a b (section 4.1, where B A is
our a b). Pairs lie in a model's tree beside the encoder, under its names:
`lora/encoder/block_07/attn/query/a` is of `encoder/block_07/attn/query/kernel`. The network never
sees them: it is given the kernels that they make.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Key

from esam_jax.typing import Params

BRANCH = "lora"
_PROJECTIONS = ("query", "key", "value", "out")


def init(model: Params, rank: int, rng: Key[Array, ""]) -> Params:
    """A pair for each projection of the encoder's attention; b is 0, so that nothing changes yet.

    a is normal with variance 1 / inputs. The paper says Gaussian and no more; its code draws evenly
    from +-1 / sqrt(inputs), a third of that variance.
    """
    kernels = _kernels(model["encoder"])
    if not kernels:
        raise ValueError("the encoder has no attention, so that there is nothing to pair with")
    shapes = {path: _shapes(path, kernel.shape, rank) for path, kernel in kernels.items()}
    # One draw for all of them: hundreds of small ones would take longest to compile.
    drawn = jax.random.normal(rng, (sum(math.prod(a) for a, _ in shapes.values()),))
    pairs, begin = {}, 0
    for path, (a, b) in shapes.items():
        size = math.prod(a)
        values = drawn[begin : begin + size].reshape(a) * (size // rank) ** -0.5
        pairs |= {f"{path}/a": values, f"{path}/b": jnp.zeros(b)}
        begin += size
    return {"encoder": flax.traverse_util.unflatten_dict(pairs, sep="/")}


def merge(model: Params, scale: float) -> Params:
    """The model's own tree, of which every kernel that has a pair is W + scale * a b.

    The others are the arrays that were given. A model without pairs is returned as it is.
    """
    if BRANCH not in model:
        return model
    pairs = flax.traverse_util.flatten_dict(model[BRANCH]["encoder"], sep="/")
    encoder = dict(flax.traverse_util.flatten_dict(model["encoder"], sep="/"))
    for path in {name.rpartition("/")[0] for name in pairs}:
        kernel = f"{path}/kernel"
        encoder[kernel] = _added(encoder[kernel], pairs[f"{path}/a"], pairs[f"{path}/b"], scale)
    rest = {name: branch for name, branch in model.items() if name != BRANCH}
    return {**rest, "encoder": flax.traverse_util.unflatten_dict(encoder, sep="/")}


@functools.partial(jax.jit, static_argnums=3)
def _added(
    kernel: Float[Array, "*X"], a: Float[Array, "*_"], b: Float[Array, "*_"], scale: float
) -> Float[Array, "*X"]:
    # In float32 also where products round to fewer bits: this is a parameter, and is exported.
    return kernel + scale * jnp.tensordot(a, b, 1, precision=lax.Precision.HIGHEST)


def _kernels(encoder: Params) -> Mapping[str, Any]:
    """Path of a projection -> its kernel, sorted."""
    flat = flax.traverse_util.flatten_dict(encoder, sep="/")
    ends = tuple(f"attn/{name}/kernel" for name in _PROJECTIONS)
    found = {path: leaf for path, leaf in flat.items() if f"/{path}".endswith(ends)}
    return {path.removesuffix("/kernel"): found[path] for path in sorted(found)}


def _shapes(
    path: str, kernel: tuple[int, ...], rank: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of a and b: `out` takes heads and their widths together, the others give them."""
    inputs = 2 if path.endswith("/out") else 1
    return (*kernel[:inputs], rank), (rank, *kernel[inputs:])
