"""The measurement of a run: what the train loop asks for between two updates."""

from typing import Any

import jax

from esam_jax import sharding
from esam_jax.config import RunConfig
from esam_jax.data import sources
from esam_jax.evaluate import prompts
from esam_jax.models.sam.network import Sam as Network
from esam_jax.predict.sam import Sam
from esam_jax.tasks.task import Task
from esam_jax.typing import Params


def run(cfg: RunConfig, task: Task, params: Params) -> dict[str, Any]:
    """Box and one-point mIoU by `cfg.evaluate` of the model in training, ready for metrics.jsonl.

    Names start with the model's when the run trains several. Every host computes the same numbers.
    A broken picture is counted as `skipped`: it must not end a run for good.
    """
    assert cfg.evaluate is not None
    source = sources.open_source(cfg.evaluate.source)
    mesh = jax.tree.leaves(params)[0].sharding.mesh
    models = task.models(sharding.gather(params, mesh))
    results = {}
    for name, model in models.items():
        result = prompts.evaluate(
            Sam(Network(model.config, cfg.compute), model.params),
            source,
            images=cfg.evaluate.images,
            masks_per_image=cfg.evaluate.masks_per_image,
            seed=cfg.evaluate.seed,
            broken="skip",
        )
        prefix = f"{name}/" if len(models) > 1 else ""
        results |= {prefix + key: value for key, value in result.items()}
    return results
