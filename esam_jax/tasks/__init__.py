"""Tasks: what is learned, one module for each `kind` of task config; the train loop is the same."""

import importlib

from esam_jax.config import RunConfig
from esam_jax.tasks.task import Task


def build(config: RunConfig) -> Task:
    """The task of a run, from the module named after its kind; opens no file.

    ConfigError for whatever can be seen to be wrong from the config alone.
    """
    module = importlib.import_module(f"{__name__}.{config.task.kind}")
    return module.build(config)


__all__ = ["Task", "build"]
