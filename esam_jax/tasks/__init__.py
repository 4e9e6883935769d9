"""Tasks: what is learned, as a pure `init` and `loss`; the loop in `train/` is the same for all."""

from esam_jax.config import RunConfig
from esam_jax.tasks import sami, segment
from esam_jax.tasks.task import Task

BUILDERS = {"sami": sami.build, "segment": segment.build}


def build(config: RunConfig) -> Task:
    """The task of a run; raises EsamError for whatever can be known before anything expensive."""
    return BUILDERS[config.task.kind](config)


__all__ = ["Task", "build"]
