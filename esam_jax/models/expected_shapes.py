"""Which parameters a model must have, worked out without computing anything."""

import functools
import math
import re
import types
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax

from esam_jax.config import ModelConfig
from esam_jax.errors import CheckpointError
from esam_jax.models import kinds

# A ViT's weights are the same for pictures of any size, so they do not bound what a picture takes.
# MobileSAM, at 1024 px, has 1.7 numbers in its widest layer for each weight; no other release has
# half as many. With this bound, a layer takes at most eight times the memory of the weights.
_MOST_NUMBERS = 8


@functools.lru_cache(maxsize=64)  # all that have a name, and more
def of(config: ModelConfig) -> Mapping[str, tuple[int, ...]]:
    """Parameter path -> shape of a complete model, by tracing alone.

    Many blocks have the same shapes: one of each is traced, since tracing takes most of the time in
    which a large model is loaded.
    """
    network = kinds.of(config).network
    thin, stands_for = network.thin(config)
    params = jax.eval_shape(functools.partial(network.init, thin), jax.random.key(0))
    shapes = {}
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(params, sep="/")
    for path, leaf in flat.items():
        found = re.fullmatch(r"(.*)/block_(\d\d)/(.+)", path)
        if found is None or found[1] not in stands_for:
            shapes[path] = leaf.shape
            continue
        for i, traced in enumerate(stands_for[found[1]]):
            if traced == int(found[2]):
                shapes[f"{found[1]}/block_{i:02d}/{found[3]}"] = leaf.shape
    return types.MappingProxyType(shapes)


def check(found: Mapping[str, tuple[int, ...]], config: ModelConfig, holder: str) -> None:
    """CheckpointError listing every missing, unexpected and mis-shaped parameter of `holder`."""
    wanted = of(config)
    wrong = [
        f"{path} is {tuple(found[path])}, not {wanted[path]}"
        for path in sorted(found.keys() & wanted.keys())
        if tuple(found[path]) != wanted[path]
    ]
    faults = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unexpected": sorted(found.keys() - wanted.keys()),
        "of another shape": wrong,
    }
    listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in faults.items() if names)
    if listed:
        raise CheckpointError(f"{holder} do not fit the model config; {listed}")


def check_size(config: ModelConfig, found: Mapping[str, tuple[int, ...]], holder: str) -> None:
    """CheckpointError for a config of more layers or weights than there are, or of larger pictures
    than so few weights are for.

    It needs shapes alone: before a hostile config is traced for long, or fills the memory.
    """
    weights = sum(math.prod(shape) for shape in found.values())
    if config.depth > len(found):
        fault = f"{len(found)} tensors, but its config has {config.depth} layers, each with several"
    elif config.least_weights > weights:
        fault = f"{weights} weights, but its config needs {config.least_weights} and more"
    elif config.encoder.widest_layer > _MOST_NUMBERS * weights:
        fault = (
            f"{weights} weights, but its config has image_px={config.encoder.image_px}, where a "
            f"layer has {config.encoder.widest_layer} numbers, more than {_MOST_NUMBERS} for each"
        )
    else:
        return
    raise CheckpointError(
        f"{holder} holds {fault}: the file is not complete, or the config belongs to another model"
    )
