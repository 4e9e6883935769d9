"""State dict -> parameters -> state dict, exact and strict both ways."""

from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np

from esam_jax.config import ModelConfig
from esam_jax.convert.families import registry
from esam_jax.convert.families.family import Family, State
from esam_jax.convert.formats import bounds
from esam_jax.errors import CheckpointError, ConfigError
from esam_jax.models import expected_shapes
from esam_jax.typing import Params

_FLOATS = ("float32", "float16", "bfloat16", "float64")


def detect(state: State, family: Family | None = None) -> ModelConfig:
    """The config of a state dict, by its names and shapes; CheckpointError if it is not a model."""
    family = registry.recognise(state) if family is None else family
    try:
        return family.detect(state)
    except ConfigError as error:
        raise CheckpointError(f"the shapes of this state dict do not agree: {error}") from error


def to_params(state: State, family: Family, config: ModelConfig) -> tuple[Params, State]:
    """Nested float32 parameters, and what the networks do not use (as the file has it).

    One CheckpointError lists all that does not fit the config; what the networks do not use may be
    absent or of another size, such as a classifier of other classes. float64 is rounded. The arrays
    are views of the file's tensors wherever that can be: a large file is not copied.
    """
    expected_shapes.check_size(config, {name: x.shape for name, x in state.items()}, "the file")
    links = list(family.links(config))
    unused = family.unused(config)
    state, torn = _without_aliases(state, family.aliases)
    state = {name: x for name, x in state.items() if name not in family.repeated}
    _check(state, _shapes(links, config), unused, torn)
    flat: dict[str, np.ndarray] = {}
    for link in links:
        arrays = link.forward([_single(name, state[name]) for name in link.torch])
        flat |= dict(zip(link.params, arrays, strict=True))
    return nested(flat), {name: _kept(name, state[name]) for name in unused if name in state}


def remarks(state: State, family: Family, config: ModelConfig) -> tuple[str, ...]:
    """What `to_params` does to these tensors beyond giving them other names, in sentences."""
    said = []
    double = [name for name, x in state.items() if x.dtype.name == "float64"]
    if double:
        said.append(f"rounded from float64 to float32: {bounds.listed(double)}")
    absent = family.unused(config).keys() - state.keys()
    if absent:
        said.append(f"absent, and of no use to the network: {bounds.listed(absent)}")
    return tuple(said)


def to_state_dict(
    params: Params, family: Family, config: ModelConfig, unused: State | None = None
) -> dict[str, np.ndarray]:
    """The state dict that PyTorch's own model loads; exact inverse of `to_params`.

    What the layout has and no network of ours uses is zero unless `unused` brings it.
    CheckpointError when the layout cannot express the config.
    """
    reason = family.refuses(config)
    if reason is not None:
        raise CheckpointError(f"this model cannot be written as {family.name}: {reason}")
    flat = {k: np.asarray(x) for k, x in flax.traverse_util.flatten_dict(params, sep="/").items()}
    expected_shapes.check({k: x.shape for k, x in flat.items()}, config, "these parameters")
    state: dict[str, np.ndarray] = {}
    for link in family.links(config):
        tensors = link.backward([flat[name] for name in link.params])
        # In the order of C, because safetensors.numpy writes a transposed view's memory as it lies.
        state |= {k: np.asarray(x, order="C") for k, x in zip(link.torch, tensors, strict=True)}
    # Copied, for safetensors.torch refuses to write two names of one piece of memory.
    state |= {second: state[first].copy() for second, first in family.aliases.items()}
    carried = {} if unused is None else unused
    for name, (shape, dtype) in family.unused(config).items():
        state[name] = carried[name] if name in carried else np.zeros(shape, dtype)
    return state


def nested(flat: Mapping[str, Any]) -> Params:
    """Parameter path -> array, as the nested dict that modules take."""
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def _single(name: str, tensor: np.ndarray) -> np.ndarray:
    """The tensor in float32; CheckpointError for a float64 that is beyond its range."""
    with np.errstate(over="ignore"):
        cast = np.asarray(tensor, np.float32)
    if tensor.dtype.name == "float64" and not np.isfinite(cast).all():
        raise CheckpointError(f"{name} holds values that float32 cannot hold: scale the weights")
    return cast


def _kept(name: str, tensor: np.ndarray) -> np.ndarray:
    """What is carried along, in a type that a model folder has."""
    return _single(name, tensor) if tensor.dtype.name == "float64" else np.asarray(tensor)


def _without_aliases(state: State, aliases: Mapping[str, str]) -> tuple[State, list[str]]:
    """The state by first names alone, and the second names whose tensor is another."""
    by_first, torn = dict(state), []
    for second in aliases.keys() & state.keys():
        tensor = by_first.pop(second)
        if not np.array_equal(by_first.setdefault(aliases[second], tensor), tensor):
            torn.append(second)
    return by_first, sorted(torn)


def _shapes(links: list[Any], config: ModelConfig) -> dict[str, tuple[int, ...]]:
    ours = expected_shapes.of(config)
    shapes = {}
    for link in links:
        shape = link.torch_shape([ours[name] for name in link.params])
        shapes |= dict.fromkeys(link.torch, shape)
    return shapes


def _check(
    state: State,
    used: Mapping[str, tuple[int, ...]],
    unused: Mapping[str, tuple[tuple[int, ...], str]],
    torn: list[str],
) -> None:
    wrong = [name for name in sorted(state.keys() & used.keys()) if state[name].shape != used[name]]
    known = sorted(state.keys() & {*used, *unused} - {*wrong})
    floats = [name for name in known if state[name].dtype.name in _FLOATS]
    integers = {
        name
        for name, (_, dtype) in unused.items()
        if name in state and dtype == "int64" == state[name].dtype.name
    }
    faults = {
        "missing": sorted(used.keys() - state.keys()),
        "unexpected": sorted(state.keys() - used.keys() - unused.keys()),
        "of another shape": [
            f"{name} is {tuple(state[name].shape)}, not {used[name]}" for name in wrong
        ],
        "not floats": sorted(set(known) - set(floats) - integers),
        "holding NaN or infinity": [n for n in floats if not np.isfinite(state[n]).all()],
        "unlike the tensor that they name a second time": torn,
    }
    listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in faults.items() if names)
    if listed:
        raise CheckpointError(f"the state dict does not fit the model; {listed}")
