"""Records to the arrays that a task reads: one module for each kind of view.

A view is a config class in `config/data.py`, whose `kind` names a module here and whose `needs`
name the annotations that it reads, and that module, with

    view(record, config, rng) -> View | None    None for a record that has nothing to show
    shapes(config)                              shape and type of every array of a view
    empty_reason(config) -> str                 what such a record lacks, only if there can be any
"""

import importlib
from types import ModuleType

import numpy as np

from esam_jax.config import ViewConfig
from esam_jax.data.records import Record

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


def _module(kind: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{kind}")
