"""How far a network of ours is from PyTorch's: the measured differences, stage by stage.

Where the original's package is installed (`evaluate/originals.py`), it runs beside ours with the
very tensors of the file under their own names, or else with our weights written in its names.
Elsewhere our network of the same kind runs with golden weights and is compared with what the
PyTorch original gave (`evaluate/golden.py`): that checks the code, not the weights, and the report
says so. What is computed for a kind of model is in `evaluate/parity_NAME.py` (models/kinds.py has
the names):

    golden_pairs(case, config, params)       (stage, ours, expected) of a golden case
    original_pairs(config, params, original) such triples for these weights
"""

import dataclasses
import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np

from esam_jax.config import ModelConfig
from esam_jax.convert import state_dict
from esam_jax.convert.families import registry
from esam_jax.convert.families.family import State
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import CheckpointError
from esam_jax.evaluate import golden, originals
from esam_jax.models import kinds

# Suggested with the golden measurements: some ten times the rounding floor of float32.
LIMITS = {"low-res masks": 1e-4, "mask pixels": 2e-4}
_LIMIT = 5e-5  # of every other stage
_ABSOLUTE = ("IoU", "loss", "loss on normalised pixels")


@dataclasses.dataclass(frozen=True)
class Stage:
    """One comparison. `error` is relative to the root mean square of what is expected, absolute
    for IoU and losses, and the share of differing pixels for masks; `largest` is the largest
    difference as it is."""

    name: str
    error: float
    largest: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.error <= self.limit


@dataclasses.dataclass(frozen=True)
class Report:
    """What was compared with what, and how it came out.

    `compared` is "file" where the original took the file's own tensors, "weights" where it took
    ours in its names, and "code" where neither was compared: then `absent` names what to install.
    """

    against: str
    stages: tuple[Stage, ...]
    compared: Literal["file", "weights", "code"] = "code"
    absent: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return all(stage.holds for stage in self.stages)


def measure(file: ModelFile, given: Sequence[tuple[str, State]] = ()) -> Report:
    """The best comparison that can be made here for this model.

    `given` holds the tensors of files that it was read from or written to, and their family.
    """
    absent = []
    for compared, family, state in _ways(file, given):
        original = originals.of(family, file.config, state)
        if original is None:
            absent.append(originals.package(family))
            continue
        params = jax.device_put(file.params)
        pairs = _module(file.config).original_pairs(file.config, params, original)
        about = {"file": "the tensors of the file", "weights": "these weights in its names"}
        return Report(f"{original.about}: {about[compared]}", tuple(_worst(list(pairs))), compared)
    report = against_golden(file.config)
    return dataclasses.replace(report, absent=tuple(dict.fromkeys(filter(None, absent))))


def _ways(
    file: ModelFile, given: Sequence[tuple[str, State]]
) -> Iterator[tuple[Literal["file", "weights"], str, State]]:
    """Families whose original could run these weights, the file's own first."""
    for each in given:
        yield "file", *each
    for family in registry.FAMILIES.values():
        if originals.package(family.name) and family.refuses(file.config) is None:
            state = state_dict.to_state_dict(file.params, family, file.config, file.unused)
            yield "weights", family.name, state


def against_golden(config: ModelConfig) -> Report:
    """Our network of this kind against the recorded numbers of the PyTorch original."""
    name = case_for(config)
    case = golden.load(name)
    state = golden.state_dict(case.meta["listing"], case.meta["seed"], case.scaled)
    family = registry.recognise(state)
    recorded = state_dict.detect(state, family)
    params, _ = state_dict.to_params(state, family, recorded)
    pairs = _module(recorded).golden_pairs(case, recorded, jax.device_put(params))
    same = "this size" if recorded == config else "another size of this kind"
    return Report(f"golden case {name} ({same}, golden weights)", tuple(_worst(list(pairs))))


def case_for(config: ModelConfig) -> str:
    """The recorded case that is most like the config; CheckpointError where there is none."""
    family = registry.of_layout(config)
    if family.golden is None:
        raise CheckpointError(f"no golden case was recorded for {family.about}")
    return family.golden(config)


def _module(config: ModelConfig) -> Any:
    name = f"{__package__}.parity_{kinds.of(config).name}"
    if importlib.util.find_spec(name) is None:
        raise CheckpointError(f"{kinds.of(config).about} cannot be compared with PyTorch's")
    return importlib.import_module(name)


def _worst(pairs: list[tuple[str, Any, Any]]) -> Iterator[Stage]:
    """The largest error of each stage, in the order in which they come."""
    for name in dict.fromkeys(name for name, _, _ in pairs):
        each = [_difference(name, np.asarray(a), np.asarray(b)) for n, a, b in pairs if n == name]
        error, largest = (max(values) for values in zip(*each, strict=True))
        yield Stage(name, error, largest, LIMITS.get(name, _LIMIT))


def _difference(name: str, got: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    if got.shape != wanted.shape:
        raise CheckpointError(f"{name} has shape {got.shape}, but {wanted.shape} was expected")
    if got.dtype == bool:
        differ = got != wanted
        return float(differ.mean()), float(differ.sum())
    largest = float(np.abs(got.astype(np.float64) - wanted).max(initial=0.0))
    scale = 1.0 if name in _ABSOLUTE else float(np.sqrt((wanted.astype(np.float64) ** 2).mean()))
    return largest / max(scale, 1e-30), largest
