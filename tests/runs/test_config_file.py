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
from esam_jax.config import json as config_json
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
        data=dataclasses.replace(cfg.data, threads=1),
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


@pytest.mark.parametrize("text", ["", "[]", '{"steps": 3}', "[" * 100_000])
def test_a_damaged_config_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json is missing or damaged \("):
        config_file.require_same(toy.config(), tmp_path)


def earlier(cfg):
    """The config.json of the releases that had one dataclass for all sources, and other names."""
    old = config_json.to_json(cfg)
    common = {"path": None, "split": "train", "scenes": 20_000, "scene_px": 64}
    old["data"]["source"] = common | old["data"]["source"]
    old["data"]["prefetch_batches"] = 9
    old["optim"]["eps"] = 1e-8
    old["guard"] |= {"spike_horizon_steps": 100, "max_rollbacks": 3}
    del old["save"]
    return old | {"save_every_steps": 100, "keep_checkpoints": 1}


@pytest.mark.parametrize("source", [ScenesConfig(split="heldout"), ImageFolderConfig(path="here")])
def test_a_run_of_an_earlier_release_is_resumed(tmp_path, source):
    cfg = toy.config(data=dataclasses.replace(toy.config().data, source=source))
    (tmp_path / "config.json").write_text(json.dumps(earlier(cfg)))
    config_file.require_same(cfg, tmp_path)
    with pytest.raises(CheckpointError, match="seed was 0, is 1"):
        config_file.require_same(dataclasses.replace(cfg, seed=1), tmp_path)
    other = dataclasses.replace(cfg.data, source=ScenesConfig(scenes=5))
    with pytest.raises(CheckpointError, match=r"data\.source\.(kind|split|scenes) was "):
        config_file.require_same(dataclasses.replace(cfg, data=other), tmp_path)


def test_a_constant_that_was_another_is_named(tmp_path):
    old = earlier(toy.config())
    old["optim"]["eps"] = 1e-6
    (tmp_path / "config.json").write_text(json.dumps(old))
    with pytest.raises(CheckpointError, match=r"optim\.eps is 1e-06, but is always 1e-08 here"):
        config_file.require_same(toy.config(), tmp_path)
