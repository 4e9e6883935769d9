"""The config of a run folder: what a resumed run may change, and what is refused."""

import dataclasses
import json

import pytest
from helpers import toy

from esam_jax.config import (
    DataConfig,
    ImageFolderConfig,
    MeshConfig,
    OptimConfig,
    SaveConfig,
    ScenesConfig,
    TeacherConfig,
)
from esam_jax.errors import CheckpointError
from esam_jax.runs import config_file


def test_config_lies_beside_and_may_change_only_in_harmless_fields(tmp_path):
    cfg = toy.config()
    config_file.store(cfg, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["optim"]["peak_lr"] == 0.01

    harmless = dataclasses.replace(
        cfg,
        log_every_steps=5,
        save=SaveConfig(every_steps=7, keep=9),
        mesh=MeshConfig(fsdp=8),
        data=dataclasses.replace(cfg.data, threads=1, prefetch_batches=1),
        task=dataclasses.replace(cfg.task, teacher=TeacherConfig(weights="moved")),
    )
    config_file.require_same(harmless, tmp_path)
    config_file.store(harmless, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["data"]["threads"] == 1

    harmful = dataclasses.replace(
        cfg,
        steps=7,
        seed=1,
        optim=OptimConfig(peak_lr=0.02, warmup_steps=2),
        task=dataclasses.replace(cfg.task, teacher=TeacherConfig(model="sam_b")),
        data=DataConfig(source=ScenesConfig(scenes=5), view=cfg.data.view),
    )
    with pytest.raises(CheckpointError) as error:
        config_file.require_same(harmful, tmp_path)
    for line in (
        "steps was 6, is 7",
        "seed was 0, is 1",
        "optim.peak_lr was 0.01, is 0.02",
        'task.teacher.model was "sam_h", is "sam_b"',
        "data.source.scenes was 20000, is 5",
    ):
        assert line in str(error.value)
    assert "threads" not in str(error.value)


def test_a_folder_may_move(tmp_path):
    def reading(path):
        data = dataclasses.replace(toy.config().data, source=ImageFolderConfig(path=path))
        return toy.config(data=data)

    config_file.store(reading("here"), tmp_path)
    config_file.require_same(reading("there"), tmp_path)


def test_missing_config_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json is missing or damaged"):
        config_file.require_same(toy.config(), tmp_path)


def test_differences_walk_the_whole_config():
    saved = {"task": {"a": 1, "b": [1, 2]}, "gone": 3, "mesh": {"data": 1}}
    current = {"task": {"a": 1, "b": [1, 3]}, "new": "x", "mesh": {"data": 2}}
    assert config_file.differences(saved, current) == [
        "task.b was [1, 2], is [1, 3]",
        'new was null, is "x"',
        "gone was 3, is null",
    ]
