"""Records to the arrays that a task reads: one module for each kind of view.

A view is a config class in `config/data.py`, whose `kind` names a module here and whose `needs`
name the annotations that it reads, and that module, with

    view(record, config, rng) -> View | None    None for a record that has nothing to show
    shapes(config)                              shape and type of every array of a view
    empty_reason(config) -> str                 what such a record lacks, only if there can be any
    fixed(config) -> int | None                 how many views each record has, where they are the
                                                same in every epoch and run; None where each is new
    fixed_view(record, config, number) -> View  one of them; both only if there can be any
    adapted(config, source) -> config           with what it takes from its data; only together with
    resumed(config, before) -> config           with what a run took that has this config `before`
    require(config, source)                     ConfigError unless it still fits the data
"""

import importlib
from types import ModuleType

import numpy as np

from esam_jax.config import ViewConfig
from esam_jax.data.records import Record, Source

View = dict[str, np.ndarray]


def make(record: Record, config: ViewConfig, rng: np.random.Generator) -> View | None:
    """One example without its batch axis; None when the record has nothing that the view shows."""
    return _module(config.kind).view(record, config, rng)


def shapes(config: ViewConfig) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of every array of a view, without its batch axis."""
    return _module(config.kind).shapes(config)


def empty_reason(config: ViewConfig) -> str:
    """What a record for which `make` is None lacks, with the remedy: "no ...: widen ..."."""
    return _module(config.kind).empty_reason(config)


def fixed(config: ViewConfig) -> int | None:
    """How many views each record has in all epochs and runs; None where all are new."""
    module = _module(config.kind)
    return module.fixed(config) if hasattr(module, "fixed") else None


def make_fixed(record: Record, config: ViewConfig, number: int) -> View:
    """One of the `fixed` views of a record, of which stored features may be."""
    return _module(config.kind).fixed_view(record, config, number)


def takes_from_data(config: ViewConfig) -> bool:
    """Whether `adapted`, `resumed` and `require` change or check anything."""
    return hasattr(_module(config.kind), "adapted")


def adapted(config: ViewConfig, source: Source) -> ViewConfig:
    """The config with what it takes from its data; ConfigError where it does not fit."""
    return _module(config.kind).adapted(config, source)


def resumed(config: ViewConfig, before: ViewConfig) -> ViewConfig:
    """The config with what a run took from its data whose view was `before`."""
    return _module(config.kind).resumed(config, before)


def require(config: ViewConfig, source: Source) -> None:
    """ConfigError where the data no longer has what the view took from it."""
    if takes_from_data(config):
        _module(config.kind).require(config, source)


def _module(kind: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{kind}")
