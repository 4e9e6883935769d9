"""One checkpoint of a run as a model: of a run that is under way, or of an earlier step."""

from pathlib import Path

import jax

from esam_jax import files, sharding, tasks
from esam_jax.config import MeshConfig, RunConfig, json
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import CheckpointError
from esam_jax.runs import config_file
from esam_jax.train import optim
from esam_jax.train import state as states
from esam_jax.train.checkpoint import manager

_MOST_BYTES = 1_000_000  # a config has a few thousand


def read(run: Path, step: int | None = None, *, name: str | None = None) -> ModelFile:
    """The model that `esam train` would have written after `step` updates (default: the last).

    `name` picks one of several. MissingError or CheckpointError when the run, the step or the name
    is not there.
    """
    file = run / config_file.CONFIG_FILE
    stored = files.read_json(file, max_bytes=_MOST_BYTES, error=CheckpointError, finite=False)
    stored.pop("save", None)  # which changes no model, and may break a rule of this release
    cfg = json.from_json(RunConfig, stored, str(run))
    there = manager.steps(run)
    if not there or (step is not None and step not in there):
        listed = ", ".join(map(str, there)) or "none"
        raise CheckpointError(f"run {run} has no checkpoint {step}: it keeps {listed}")
    step = there[-1] if step is None else step
    mesh = sharding.make_mesh(MeshConfig(data=1))  # any will do
    task = tasks.build(cfg)
    optimiser = optim.make(cfg.optim, cfg.steps)
    template = states.abstract(task, optimiser, mesh)
    state = manager.load(run, step, template)
    models = task.models(jax.device_get(state.params), task.resumed())
    name = next(iter(models)) if name is None and len(models) == 1 else name
    if name is None or name not in models:
        raise CheckpointError(f"run {run} trains {', '.join(models)}: name one of them (--model)")
    model = models[name]
    return ModelFile(
        config=model.config,
        params=jax.device_get(model.params),
        source=f"esam_jax training run {cfg.name!r}, step {step} of {cfg.steps}",
        untrained=model.untrained,
        unused=model.unused,
    )
