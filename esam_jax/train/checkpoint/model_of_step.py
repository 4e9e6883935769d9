"""One checkpoint of a run as a model: of a run that is under way, or of an earlier step.

`convert/load.py` calls it by name for every `RUN@STEP`.
"""

import warnings
from pathlib import Path

import jax

from esam_jax import files, sharding, tasks
from esam_jax.config import MeshConfig, RunConfig, json
from esam_jax.convert import provenance
from esam_jax.convert.formats import choices
from esam_jax.convert.formats.choices import Weights
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import CheckpointError
from esam_jax.runs import config_file
from esam_jax.train import optim
from esam_jax.train import state as states
from esam_jax.train.checkpoint import manager

_MOST_BYTES = 1_000_000  # a config has a few thousand


def read(
    run: Path, step: int, *, name: str | None = None, weights: Weights | None = None
) -> ModelFile:
    """The model that `esam train` would have written after `step` updates.

    `name` picks one of several: the first, where none is given, and a UserWarning names the others.
    `weights`: "raw" for those that were trained, although the run keeps averages of them.
    MissingError or CheckpointError when the run, the step or the name is not there.
    """
    file = run / config_file.CONFIG_FILE
    stored = files.read_json(file, max_bytes=_MOST_BYTES, error=CheckpointError, finite=False)
    for key in ("save", "evaluate"):  # which change no model, and may break a rule of this release
        stored.pop(key, None)
    cfg = json.from_json(RunConfig, stored, str(run))
    mesh = sharding.make_mesh(MeshConfig(data=1))  # any will do
    task = tasks.build(cfg)
    optimiser = optim.make(cfg.optim, cfg.steps)
    template = states.abstract(task, optimiser, mesh)
    state = manager.load(run, step, template)
    taken = state.params if weights == "raw" else state.result
    averaged = taken is not state.params
    choices.require(weights, ("ema" if averaged else None,), f"checkpoint {step} of {run}")
    models = task.models(jax.device_get(taken), task.resumed())
    if name is None:
        name, *others = models
        if others:
            rest = ", ".join(others)
            text = f"taking {name} of checkpoint {step} of {run}, which also holds {rest}"
            warnings.warn(text, UserWarning, stacklevel=2)
    elif name not in models:
        raise CheckpointError(
            f"run {run} trains {', '.join(models)}, not {name!r}: choose one of them"
        )
    model = models[name]
    return ModelFile(
        config=model.config,
        params=jax.device_get(model.params),
        source=f"esam_jax training run {cfg.name!r}, step {step} of {cfg.steps}"
        + (provenance.AVERAGED if averaged else ""),
        untrained=model.untrained,
        unused=model.unused,
    )
