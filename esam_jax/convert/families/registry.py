"""Every family of checkpoints, and which of them a state dict or a config is of.

A family is a module of this folder with a `FAMILY`: a new file is all that a new one needs.
"""

import importlib
import pkgutil
from typing import Any

from esam_jax.config import ModelConfig
from esam_jax.convert import families
from esam_jax.convert.families.family import Family, Layout, State
from esam_jax.errors import CheckpointError, ConfigError


def _found() -> dict[str, Family]:
    names = [module.name for module in pkgutil.iter_modules(families.__path__)]
    modules = [
        importlib.import_module(f"{families.__name__}.{name}")
        for name in names
        if name != "registry"
    ]
    found = [module.FAMILY for module in modules if hasattr(module, "FAMILY")]
    return {family.name: family for family in found}


FAMILIES = _found()


def get(name: str) -> Family:
    """The family of that name; ConfigError for an unknown one."""
    if name not in FAMILIES:
        raise ConfigError(
            f"no layout of checkpoints is called {name!r}: choose one of {', '.join(FAMILIES)}"
        )
    return FAMILIES[name]


def recognise(state: State) -> Family:
    """The family whose marks are all among the names, of several that with most marks;
    CheckpointError when there is none."""
    marked = [family for family in FAMILIES.values() if family.marks]
    found = [family for family in marked if all(mark in state for mark in family.marks)]
    if found:
        return max(found, key=lambda family: len(family.marks))
    known = "; ".join(f"{f.about}: {' and '.join(f.marks)}" for f in marked)
    raise CheckpointError(f"this state dict is not of a known model, which would hold ({known})")


def names(family: Family, config: ModelConfig) -> set[str]:
    """Every tensor name that a model needs in that layout; the family's `unused` has the others."""
    return {name for link in family.links(config) for name in link.torch}


def of_layout(config: ModelConfig, layout: Layout = "original") -> Family:
    """The family that writes a network of this kind, or the nearest one, in the layout.

    CheckpointError says why none does.
    """
    reasons = {}
    for family in FAMILIES.values():
        if family.layout == layout:
            reasons[family.name] = family.refuses(family.nearest(config))
            if reasons[family.name] is None:
                return family
    if layout == "original":
        raise CheckpointError(
            "no PyTorch release has a model of this kind: write a model folder, which holds "
            "everything"
        )
    listed = "; ".join(f"as {name}: {reason}" for name, reason in reasons.items())
    raise CheckpointError(f"this model cannot be written {listed}")


def closest(state: State, config: ModelConfig) -> Family:
    """Of the layouts that can hold the config, the one with most of the names."""
    able = [family for family in FAMILIES.values() if family.refuses(config) is None]
    if not able:
        raise CheckpointError("no PyTorch layout has a model of this kind")

    def known(family: Family) -> int:
        return sum(name in state for link in family.links(config) for name in link.torch)

    return max(able, key=known)


def from_library_config(value: Any) -> ModelConfig:
    """The config that a library's `config.json` describes; CheckpointError for an unknown one."""
    libraries = [family.library for family in FAMILIES.values() if family.library is not None]
    found = value.get("model_type") if isinstance(value, dict) else None
    for library in libraries:
        if library.model_type == found:
            return library.from_config(value)
    known = ", ".join(sorted(library.model_type for library in libraries))
    raise CheckpointError(
        f"config.json has model_type {found!r:.80}, but only these are read: {known}"
    )
