"""Image encoders: the `kind` of a config is the name of the module here that computes it.

Such a module has `NETWORK`, the Linen module made of the config and a `ComputeConfig`;
`thin(config)`, the config with one block of each shape, and for every block which of those it has
the shapes of (empty where blocks are not numbered in one run); and, where somebody has listed them,
`kernels(config)`. A network with batch norms has `jointly`, too (`parts/batch_norm.py`).
"""

import importlib
from typing import Any

import flax.linen as nn

from esam_jax.config import ComputeConfig, EncoderConfig
from esam_jax.models.parts.kernels import Kernel


def build(config: EncoderConfig, compute: ComputeConfig) -> nn.Module:
    """The encoder's Linen module: normalised pixels to a feature map."""
    return _module(config).NETWORK(config, compute)


def thin(config: EncoderConfig) -> tuple[EncoderConfig, list[int]]:
    """A config that traces quickly, and the block of it that stands for each block of `config`."""
    return _module(config).thin(config)


def has_batch_norm(config: EncoderConfig) -> bool:
    """Whether it may be normalised by the statistics of the batch."""
    return hasattr(_module(config).NETWORK, "jointly")


def kernels(config: EncoderConfig) -> list[Kernel] | None:
    """What the encoder computes for one picture, kernel by kernel; None where nobody listed it."""
    listed = getattr(_module(config), "kernels", None)
    return None if listed is None else listed(config)


def _module(config: EncoderConfig) -> Any:
    return importlib.import_module(f"{__name__}.{config.kind}")
