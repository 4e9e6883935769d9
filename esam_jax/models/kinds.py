"""What each kind of model config stands for: the one table from a config to its network.

Whoever adds a kind adds a row. Its module has

    init(config, rng)   every parameter of the model, freshly drawn
    thin(config)        the config with few blocks, and for each numbered run of blocks (its path)
                        the block of the thin model that has the shapes of block i

and its name is that of `predict/NAME.py`, where such a model has a `loader` to be queried, and of
`evaluate/parity_NAME.py`, where it can be compared with its original. Those that tell classes apart
have NETWORK, the module whose logits are of pictures alone.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from esam_jax.config import (
    ClassifierConfig,
    ClipConfig,
    MaeConfig,
    ModelConfig,
    RegNetConfig,
    SamConfig,
    U2NetConfig,
)
from esam_jax.models.clip import towers
from esam_jax.models.convolutional import regnet
from esam_jax.models.heads import classifier
from esam_jax.models.pretrain import mae
from esam_jax.models.saliency import u2net
from esam_jax.models.sam import network


@dataclasses.dataclass(frozen=True)
class Kind:
    """`about` completes "this file holds ...", `answers` "it answers ...". `loader` is the function
    of `esam_jax` that loads one, where it answers anything."""

    name: str
    about: str
    network: Any  # the module
    loader: str | None = None
    answers: str = "nothing: an encoder"


_KINDS: Mapping[type, Kind] = {
    SamConfig: Kind("sam", "a promptable model", network, "load", "prompts"),
    MaeConfig: Kind("mae", "a pretrained encoder", mae),
    ClassifierConfig: Kind("classifier", "a classifier", classifier, answers="classes"),
    RegNetConfig: Kind("regnet", "a classifier", regnet, answers="classes"),
    ClipConfig: Kind("clip", "CLIP", towers, "load_clip", "texts"),
    U2NetConfig: Kind("u2net", "a saliency network", u2net, "load_saliency", "a saliency map"),
}


def of(config: ModelConfig) -> Kind:
    """The kind of a model, by the class of its config."""
    return _KINDS[type(config)]
