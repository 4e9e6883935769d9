"""The train loop's measurement reads sharded parameters and changes nothing about the run."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import nano

from esam_jax import configs, sharding
from esam_jax.config import EvaluateConfig, MeshConfig, ScenesConfig
from esam_jax.data import sources
from esam_jax.errors import ConfigError
from esam_jax.evaluate import prompts, runner
from esam_jax.models import named
from esam_jax.tasks.task import Task, TrainedModel

NAME = "efficientsam_nano"


def task(*names: str) -> Task:
    def models(params):
        return {name: TrainedModel(named.sam(NAME), params[name]) for name in names}

    return Task(
        init=dict, loss=dict, load_frozen=dict, initial=lambda: None, models=models
    )  # only `models` is asked


@pytest.fixture
def cfg():
    evaluate = EvaluateConfig(source=ScenesConfig(split="heldout"), images=3, masks_per_image=2)
    return dataclasses.replace(configs.load("quickstart_segment"), evaluate=evaluate)


def test_the_run_is_measured_like_a_loaded_model(cfg):
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    host = {NAME: nano.params(named.sam(NAME))}
    params = jax.device_put(host, sharding.shardings(host, mesh))
    result = runner.run(cfg, task(NAME), params)
    source = sources.open_source(cfg.evaluate.source)
    sam = nano.sam(NAME)
    alone = prompts.evaluate(sam, source, images=3, masks_per_image=2, seed=0)
    assert result == alone | {"skipped": 0}


def test_several_models_keep_their_names(cfg, monkeypatch):
    monkeypatch.setattr(prompts, "evaluate", lambda *a, **k: {"box_miou": 0.5})
    mesh = sharding.make_mesh(MeshConfig(data=1))
    leaf = jax.device_put(np.zeros(3, np.float32), sharding.replicated(mesh))
    result = runner.run(cfg, task("a", "b"), {"a": {"x": leaf}, "b": {"x": leaf}})
    assert result == {"a/box_miou": 0.5, "b/box_miou": 0.5}


def test_a_run_without_masks_cannot_be_measured(cfg):
    sami = configs.load("sami_ti")
    with pytest.raises(ConfigError, match="trains no masks to measure"):
        dataclasses.replace(sami, evaluate=cfg.evaluate)
