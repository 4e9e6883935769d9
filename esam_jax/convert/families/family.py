"""What a family of PyTorch checkpoints is, and how the size of a model follows from its file."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np

from esam_jax.config import ModelConfig
from esam_jax.convert.table import Link
from esam_jax.errors import CheckpointError
from esam_jax.typing import Params

State = Mapping[str, np.ndarray]  # tensor name -> array, as a file has them
Unused = Mapping[str, tuple[tuple[int, ...], str]]  # tensor name -> shape, dtype
Reduced = tuple[Params, tuple[str, ...]]  # parameters, branches that were left out

# `original` is what the authors' code loads with strict=True.
Layout = Literal["original", "transformers", "timm"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Library:
    """What lies beside the weights in a library's folder.

    `model_type` is that of its config.json, `from_config` reads it, and `files` gives the JSON
    files of a config whose tensors have the named dtype, which are called `names`.
    """

    model_type: str
    names: tuple[str, ...]
    from_config: Callable[[Any], ModelConfig]
    files: Callable[[Any, str], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """One layout of names: how to recognise it, and its table.

    Reading: `detect` gives the config of a state dict (CheckpointError when no model has
    its shapes), `links` the table for a config, `unused` the tensors that the layout has and our
    networks do not: they are carried along, so that a file comes back as it was. `aliases` gives
    the second name of a tensor that the original holds under two: both are written, either is
    enough to read. `repeated` names tensors of files that say nothing which the shapes do not say:
    they are left out.

    Writing: `refuses` says why a config cannot be written in this layout, or None. `nearest` is the
    config that the layout can express in place of another, and `reduce` its parameters, with the
    trained branches that are lost; it takes the config, the parameters and the unused tensors.
    `wrap` is the key under which the released .pt files hold the state dict.

    `library` is there for layouts of a library's folders, and `described` completes what `detect`
    found by the config.json that timm writes beside a file. `golden` names the golden case that is
    most like a config of this family.
    """

    name: str
    about: str
    marks: tuple[str, ...]  # tensors that, all together, only this family has; none: only written
    detect: Callable[[State], ModelConfig]
    links: Callable[[Any], Iterator[Link]]
    refuses: Callable[[ModelConfig], str | None]
    unused: Callable[[Any], Unused] = lambda config: {}
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)  # second name -> first
    repeated: tuple[str, ...] = ()
    nearest: Callable[[ModelConfig], ModelConfig] = lambda config: config
    reduce: Callable[[Any, Params, State], Reduced] = lambda config, params, unused: (params, ())
    layout: Layout = "original"
    wrap: str | None = None
    library: Library | None = None
    described: Callable[[Any, Any], ModelConfig] = lambda config, beside: config
    golden: Callable[[Any], str] | None = None
    licence: str = "unstated"


@dataclasses.dataclass(frozen=True)
class Unwritten:
    """What shapes do not determine; `image_px` is used where no table has the input's size."""

    encoder_heads: int
    decoder_heads: int = 8
    image_px: int = 1024


# Head counts leave no trace in the weights: they go by the encoder's width.
_BY_ENCODER_WIDTH = {
    48: Unwritten(3, image_px=256),  # the small networks of the golden cases
    64: Unwritten(2, decoder_heads=4, image_px=64),  # efficientsam_nano
    96: Unwritten(3, decoder_heads=4, image_px=64),  # sam_nano
    192: Unwritten(3),
    384: Unwritten(6),
    768: Unwritten(12),
    1024: Unwritten(16),
    1280: Unwritten(16),
}


def unwritten(width: int) -> Unwritten:
    """Heads and input size of an encoder of that width; CheckpointError for an unknown one."""
    if width not in _BY_ENCODER_WIDTH:
        raise CheckpointError(
            f"an encoder of width {width} is unknown, and weights do not hold its "
            "number of heads: name the model (--model NAME on the command line)"
        )
    return _BY_ENCODER_WIDTH[width]


def size(state: State, name: str, axis: int) -> int:
    """One axis of a tensor that must be there; CheckpointError if it is not."""
    if name not in state:
        raise CheckpointError(f"the state dict lacks {name}, which determines the model's size")
    shape = state[name].shape
    if not -len(shape) <= axis < len(shape) or shape[axis] == 0:
        raise CheckpointError(f"{name} has shape {tuple(shape)}, which is not a model's")
    return shape[axis]


def count(state: State, prefix: str) -> int:
    """Blocks by the highest number, so that one that is missing is noticed."""
    numbers = [re.match(re.escape(prefix) + r"(\d{1,4})\.", name) for name in state]
    highest = max((int(match[1]) for match in numbers if match), default=-1)
    if not 0 <= highest < len(state):
        raise CheckpointError(f"the state dict has no {prefix}0, or not all up to {highest}")
    return highest + 1
