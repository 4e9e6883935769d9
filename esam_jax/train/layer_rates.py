"""Learning rates that fall from layer to layer of an image encoder, towards its input.

In a plain ViT, SAM's too, each block has `decay` times the rate of the block behind it, and the
last one `decay` times that of what follows it; what comes before the blocks has `decay` times that
of the first (BEiT, arXiv:2106.08254; MAE's lr_decay.py). TinyViT counts its blocks through all
stages, and begins otherwise (upstream `set_layer_lr_decay`): the last block has the rate of what
follows, what comes before the blocks that of the first, and the layer that merges patches that of
the block before it.
"""

import re
from collections.abc import Iterable

import jax
import optax

from esam_jax import sharding
from esam_jax.errors import ConfigError
from esam_jax.typing import Params

# In a path: the stage, if any, then the number of a block or the name of another part.
_PART = re.compile(r"(?:^|/)encoder/(?:stage_(\d+)/)?(?:block_(\d+)|(\w+))")
_TOKENS = re.compile(r"(?:^|/)(?:class_token|distillation/(?:token|position))$")
_BEFORE = ("patch_embed", "positions", "stem_1", "stem_1_norm", "stem_2", "stem_2_norm")
_MERGING = "downsample"  # ends a stage
_BEHIND = ("neck", "norm")


def by_layer(decay: float) -> optax.GradientTransformation:
    """Updates multiplied by `decay` to the power of `layers`.

    `init` raises its ConfigError, long before the first update.
    """

    def init(params: Params) -> optax.EmptyState:
        layers(params)
        return optax.EmptyState()

    def update(
        updates: Params, state: optax.EmptyState, params: Params | None = None
    ) -> tuple[Params, optax.EmptyState]:
        return jax.tree.map(lambda x, n: x * decay**n, updates, layers(updates)), state

    return optax.GradientTransformation(init, update)


def layers(params: Params) -> Params:
    """How many layers are above that of each parameter, in its place; top-level keys are models."""

    def of_model(name: str, model: Params) -> Params:
        leaves, shape = jax.tree_util.tree_flatten_with_path(model)
        return shape.unflatten(layers_above(name, [sharding.name(path) for path, _ in leaves]))

    return {name: of_model(name, model) for name, model in params.items()}


def layers_above(model: str, paths: Iterable[str]) -> list[int]:
    """How many layers are above that of each parameter of one model, by its path there.

    0 for what is no part of an image encoder, except for the tokens that go through its blocks.
    ConfigError names a part of an encoder whose layer is unknown.
    """
    paths = list(paths)
    found = [_PART.search(path) for path in paths]
    blocks = sorted({_block(part) for part in found if part and part[2]})
    staged, depth = any(part and part[1] for part in found), len(blocks)
    last = 0 if staged else 1  # the layers above the last block
    first = depth - 1 + 2 * last  # and above what comes before them

    def one(path: str, part: re.Match[str] | None) -> int:
        if part is None:
            return first if _TOKENS.search(path) and depth else 0
        if part[2]:
            return depth - 1 - blocks.index(_block(part)) + last
        if part[3] == _MERGING and part[1]:
            before = [block for block in blocks if block[0] <= int(part[1])]
            return depth - len(before) + last
        if part[3] in _BEFORE and depth:
            return first
        if part[3] in _BEHIND:
            return 0
        raise ConfigError(
            f"optim.layer_decay is set, but {model}/{path} is in no layer that it counts (the "
            "blocks of a ViT or a TinyViT): leave it out"
        )

    return [one(path, part) for path, part in zip(paths, found, strict=True)]


def _block(part: re.Match[str]) -> tuple[int, int]:
    """Its stage and its number there."""
    return int(part[1] or 0), int(part[2])
