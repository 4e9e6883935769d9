"""What the chaos runner trains, on data of which one record never comes: `esam train` executes it.

That is the record at position `POSITION`, which is read after the first updates.
"""

import dataclasses

from chaos import task

from esam_jax.config import GuardConfig, RunConfig
from esam_jax.data import sources
from esam_jax.data.order import Order
from helpers.hanging_source import Hanging

POSITION = 80


def record() -> str:
    """The name of the record."""
    return _scenes().name(_index())


def hanging() -> RunConfig:
    """Updates of twelve pictures; one that takes longer than some seconds ends the run."""
    opened, index = sources.open_source, _index()
    sources.open_source = lambda *args, **keys: Hanging(opened(*args, **keys), index)
    return dataclasses.replace(task.chaos(), name="hanging", guard=GuardConfig(hang_seconds=5.0))


def _index() -> int:
    return Order(len(_scenes()), task.chaos().seed)[POSITION][1]


def _scenes() -> sources.Source:
    return sources.open_source(task.chaos().data.source)
