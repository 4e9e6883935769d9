"""What the chaos runner trains, on data of which one record never comes: `esam train` executes it.

That is the record at position `POSITION`, which is read after the first updates.
"""

import dataclasses

from esam_jax.config import GuardConfig, RunConfig, ScenesConfig
from esam_jax.data import sources
from esam_jax.data.order import Order
from helpers.hanging_source import Hanging

POSITION = 80
_SCENES, _SEED = ScenesConfig(scenes=100, scene_px=32), 0


def record() -> str:
    """The name of the record."""
    return sources.open_source(_SCENES).name(_index())


def hanging() -> RunConfig:
    """Updates of twelve pictures; one that takes longer than some seconds ends the run."""
    from chaos import task  # which changes the process that imports it

    config = task.chaos()
    assert (config.data.source, config.seed) == (_SCENES, _SEED)
    opened, index = sources.open_source, _index()
    sources.open_source = lambda *args, **keys: Hanging(opened(*args, **keys), index)
    return dataclasses.replace(config, name="hanging", guard=GuardConfig(hang_seconds=5.0))


def _index() -> int:
    return Order(_SCENES.scenes, _SEED)[POSITION][1]
