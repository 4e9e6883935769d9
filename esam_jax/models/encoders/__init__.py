"""Image encoders: the `kind` of a config is the name of the module here that computes it.

Such a module has `NETWORK`, the Linen module made of the config and a `ComputeConfig`, and
`thin(config)`: the config with one block of each shape, and for every block which of those it has
the shapes of (empty where blocks are not numbered in one run).
"""

import importlib
from typing import Any

import flax.linen as nn

from esam_jax.config import ComputeConfig, EncoderConfig


def build(config: EncoderConfig, compute: ComputeConfig) -> nn.Module:
    """The encoder's Linen module: normalised pixels to a feature map."""
    return _module(config).NETWORK(config, compute)


def thin(config: EncoderConfig) -> tuple[EncoderConfig, list[int]]:
    """A config that traces quickly, and the block of it that stands for each block of `config`."""
    return _module(config).thin(config)


def _module(config: EncoderConfig) -> Any:
    return importlib.import_module(f"{__name__}.{config.kind}")
