"""Which parameters of a run are trained: the others stay in its state, and nothing changes them.

A frozen parameter has no gradient, no moments and no decay; it is saved with the rest, so that a
run folder is complete by itself.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from esam_jax.typing import Params


class Count(NamedTuple):
    """Numbers in the parameters that are trained, and in all of them."""

    trained: int
    all: int

    def __str__(self) -> str:
        return f"{self.trained:,} of {self.all:,} parameters ({self.trained / self.all:.2%})"


def select(params: Params, trains: Callable[[str], bool], prefix: str = "") -> Params:
    """The leaves whose path `trains` accepts, without the branches in which there are none."""
    found: Params = {}
    for name, node in params.items():
        path = f"{prefix}{name}"
        if not isinstance(node, Mapping):
            if trains(path):
                found[name] = node
        elif inside := select(node, trains, f"{path}/"):
            found[name] = inside
    return found


def merged(params: Params, changed: Params) -> Params:
    """`params` with the leaves of `changed`, a part of the same tree, in their place."""
    found = dict(params)
    for name, node in changed.items():
        found[name] = merged(found[name], node) if isinstance(node, Mapping) else node
    return found


def count(params: Params, trains: Callable[[str], bool]) -> Count:
    """Of a tree of parameters, which may be abstract."""
    return Count(_numbers(select(params, trains)), _numbers(params))


def _numbers(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
