"""A stack of blocks: a loop where gradients are needed, else one call after the other.

Parameters keep one name a block (`block_07/...`). What is trained has those of equal blocks laid
one on another and scanned, which bounds what is kept for the backward pass. Without a gradient
nothing is kept, and a loop would only copy parameters: into the pile, and out of it in each round.
docs/plan.md, "Scanned or unrolled", has the reasons in figures.
"""

import contextlib
import contextvars
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jaxtyping import Array, Float

from esam_jax.config import ComputeConfig
from esam_jax.ops import attention
from esam_jax.typing import Params

Given = tuple[Params, tuple[Array, ...]]  # of one block: its parameters, arguments of its own

_FORWARD_ONLY = contextvars.ContextVar("forward_only", default=False)


@contextlib.contextmanager
def forward_only() -> Iterator[None]:
    """While a program is traced in it, blocks are called in turn: no gradient will be asked of it.

    Parameters are read where they lie, so that what is kept for many calls should be in the types
    in which it is read (`models/rounding.py`).
    """
    token = _FORWARD_ONLY.set(True)
    try:
        yield
    finally:
        _FORWARD_ONLY.reset(token)


def through(
    blocks: Sequence[nn.Module],
    x: Float[Array, "*X"],
    *context: Array,
    compute: ComputeConfig,
    kinds: Sequence[Hashable] | None = None,
    own: Float[Array, "L *_"] | None = None,
) -> Float[Array, "*X"]:
    """`x` through all bound `blocks` in turn, each called as block(x, *context).

    With `own`, block i has own[i] as its last argument. Blocks of one kind must differ by their
    parameters alone; by default all are of one kind.
    """
    if any(block.is_initializing() for block in blocks):
        for block in blocks:
            x = block(x, *context)  # makes the parameters
        return x
    extra = [(each,) for each in own] if own is not None else [()] * len(blocks)
    given = [(block.variables["params"], own) for block, own in zip(blocks, extra, strict=True)]
    pure = [block.clone(parent=None, name=None) for block in blocks]
    kinds = list(kinds or [None] * len(blocks))
    if _FORWARD_ONLY.get():
        return _in_turn(pure, given, kinds, x, context)
    return _through(pure, given, kinds, x, context, compute)


def _in_turn(
    blocks: Sequence[nn.Module],
    given: Sequence[Given],
    kinds: Sequence[Hashable],
    x: Array,
    context: tuple[Array, ...],
) -> Array:
    # Traced once for each kind, since tracing takes longest; the compiler puts each call in place.
    calls = {kind: jax.jit(_call(block)) for kind, block in zip(kinds, blocks, strict=True)}
    for kind, each in zip(kinds, given, strict=True):
        x = calls[kind](each, x, context)
    return x


def _through(
    blocks: Sequence[nn.Module],
    given: Sequence[Given],
    kinds: Sequence[Hashable],
    x: Array,
    context: tuple[Array, ...],
    compute: ComputeConfig,
) -> Array:
    depth, period = len(blocks), _period(kinds)
    if depth == 1:
        return _one(blocks[0], compute)(given[0], x, context)
    if period == depth:  # no repeating pattern: runs of equal neighbours, one after the other
        for i, j in _runs(kinds):
            x = _through(blocks[i:j], given[i:j], kinds[i:j], x, context, compute)
        return x
    rounds = [
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *given[i::period]) for i in range(period)
    ]

    def one_round(x: Array, given: list[Given]) -> tuple[Array, None]:
        return _through(blocks[:period], given, kinds[:period], x, context, compute), None

    return lax.scan(one_round, x, rounds)[0]


def _one(block: nn.Module, compute: ComputeConfig) -> Any:
    """(given, x, context) -> x of one block.

    With remat it is recomputed in full in the backward pass. Without, the results of products with
    parameters and of attention are kept, and what lies between them is recomputed: a loop would
    store all of it, which the compiler spares itself where it sees every block.
    """

    policy = None if compute.remat == "blocks" else _kept
    return jax.checkpoint(_call(block), prevent_cse=False, policy=policy)


def _call(block: nn.Module) -> Any:
    """(given, x, context) -> x of one block, as a function of its own."""

    def call(given: Given, x: Array, context: tuple[Array, ...]) -> Any:
        params, own = given
        return block.apply({"params": params}, x, *context, *own)

    return call


def _kept(primitive: core.Primitive, *avals: Any, **params: Any) -> bool:
    """Products without batch axes, convolutions, attention; but no scores, which are far larger."""
    return (
        primitive.name == "conv_general_dilated"
        or attention.is_result(primitive, params)
        or jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *avals, **params)
    )


def _period(kinds: Sequence[Hashable]) -> int:
    """Length of the shortest pattern that, repeated, gives all of `kinds`."""
    depth = len(kinds)
    return next(
        p
        for p in range(1, depth + 1)
        if depth % p == 0 and all(kinds[i] == kinds[i % p] for i in range(depth))
    )


def _runs(kinds: Sequence[Hashable]) -> list[tuple[int, int]]:
    """(begin, end) of each longest run of equal neighbours."""
    starts = [i for i in range(len(kinds)) if i == 0 or kinds[i] != kinds[i - 1]]
    return list(zip(starts, [*starts[1:], len(kinds)], strict=True))
