"""Checkpoints: what comes back, what is refused, and what a broken disk does."""

import dataclasses
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import toy

from esam_jax import sharding
from esam_jax.config import (
    DataConfig,
    MeshConfig,
    OptimConfig,
    SaveConfig,
    ScenesConfig,
    TeacherConfig,
)
from esam_jax.errors import CheckpointError, MissingError
from esam_jax.runs import config_file
from esam_jax.train import optim
from esam_jax.train import state as states
from esam_jax.train.checkpoint import checksums, manager
from esam_jax.train.checkpoint.manager import Checkpoints


def template(mesh):
    cfg = toy.config()
    return states.abstract(toy.task(), optim.make(cfg.optim, cfg.steps), cfg, mesh)


@pytest.fixture(scope="module")
def state():
    cfg, mesh = toy.config(), sharding.make_mesh(MeshConfig(data=1))
    return states.create(toy.task(), optim.make(cfg.optim, cfg.steps), cfg, mesh)


def test_comes_back_to_the_bit_on_another_mesh(state, tmp_path):
    assert manager.newest(tmp_path) == 0 and not list(tmp_path.iterdir())
    with Checkpoints(toy.config(), tmp_path) as checkpoints:
        assert checkpoints.latest() is None
        checkpoints.save(3, state)
    wanted = template(sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    with Checkpoints(toy.config(), tmp_path) as checkpoints:
        assert checkpoints.latest() == 3
        restored = checkpoints.restore(wanted)
    for saved, abstract, found in zip(*map(jax.tree.leaves, (state, wanted, restored))):
        np.testing.assert_array_equal(saved, found)
        assert found.sharding == abstract.sharding


def test_only_the_newest_are_kept(state, tmp_path):
    with Checkpoints(toy.config(save=SaveConfig(keep=2)), tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state)
            checkpoints.wait()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]


def test_unfinished_save_is_no_checkpoint(state, tmp_path):
    with Checkpoints(toy.config(), tmp_path) as checkpoints:
        checkpoints.save(2, state)
    (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir()
    assert manager.newest(tmp_path) == 2
    with Checkpoints(toy.config(), tmp_path) as checkpoints:
        assert checkpoints.latest() == 2
        checkpoints.save(4, state)
    with Checkpoints(toy.config(), tmp_path) as checkpoints:
        assert checkpoints.latest() == 4


def test_damaged_checkpoint_is_refused_by_name(state, tmp_path):
    mesh = sharding.make_mesh(MeshConfig(data=1))
    with Checkpoints(toy.config(), tmp_path) as checkpoints:
        checkpoints.save(2, state)
    metadata = tmp_path / "checkpoints" / "2" / "state" / "_METADATA"
    metadata.write_bytes(metadata.read_bytes()[:100])
    with (
        Checkpoints(toy.config(), tmp_path) as checkpoints,
        pytest.raises(CheckpointError, match="checkpoints/2 cannot be read"),
    ):
        checkpoints.restore(template(mesh))


def test_one_flipped_bit_is_found(tmp_path):
    # Large enough to lie in a file of its own, which TensorStore reads without a checksum.
    place = sharding.replicated(sharding.make_mesh(MeshConfig(data=1)))
    values = np.random.default_rng(0).normal(size=(128, 128)).astype(np.float32)
    params = jax.device_put({"wide": values, "other": values[0]}, place)
    state = states.TrainState(jax.device_put(jnp.int32(2), place), params, (), (), ())
    wanted = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    with Checkpoints(toy.config(), tmp_path) as checkpoints:
        checkpoints.save(2, state)
        checkpoints.wait()
        assert checkpoints.restore(wanted).params.keys() == params.keys()
        files = (tmp_path / "checkpoints" / "2" / "state").rglob("*")
        largest = max(files, key=lambda file: file.stat().st_size)
        spoilt = bytearray(largest.read_bytes())
        spoilt[len(spoilt) // 2] ^= 16
        largest.write_bytes(spoilt)
        with pytest.raises(CheckpointError, match="checkpoints/2 is damaged in params/wide; move"):
            checkpoints.restore(wanted)


def test_checksums_do_not_depend_on_the_mesh():
    values = {"a": np.arange(64, dtype=np.float32).reshape(8, 8), "b": jnp.ones(8, jnp.bfloat16)}
    sums = [
        checksums.on_devices(
            states.TrainState(
                jnp.int32(0),
                jax.device_put(values, sharding.batch(sharding.make_mesh(mesh))),
                (),
                (),
                (),
            )
        )
        for mesh in (MeshConfig(data=1), MeshConfig(fsdp=8), MeshConfig(data=2, fsdp=2, tensor=2))
    ]
    assert sums[0] == sums[1] == sums[2]
    assert sums[0]["params/b"] == 8 * 0x3F80


def test_config_lies_beside_and_may_change_only_in_harmless_fields(state, tmp_path):
    cfg = toy.config()
    with Checkpoints(cfg, tmp_path) as checkpoints:
        checkpoints.save(2, state)
    assert json.loads((tmp_path / "config.json").read_text())["optim"]["peak_lr"] == 0.01

    harmless = dataclasses.replace(
        cfg,
        log_every_steps=5,
        save=SaveConfig(every_steps=7, keep=9),
        mesh=MeshConfig(fsdp=8),
        data=dataclasses.replace(
            cfg.data,
            threads=1,
            prefetch_batches=1,
        ),
        task=dataclasses.replace(cfg.task, teacher=TeacherConfig(weights="moved")),
    )
    Checkpoints(harmless, tmp_path).__exit__(None, None, None)
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
        Checkpoints(harmful, tmp_path)
    for line in (
        "steps was 6, is 7",
        "seed was 0, is 1",
        "optim.peak_lr was 0.01, is 0.02",
        'task.teacher.model was "sam_h", is "sam_b"',
        "data.source.scenes was 20000, is 5",
    ):
        assert line in str(error.value)
    assert "threads" not in str(error.value)


def test_without_a_checkpoint_the_config_may_still_change(tmp_path):
    Checkpoints(toy.config(seed=1), tmp_path).__exit__(None, None, None)
    Checkpoints(toy.config(seed=2), tmp_path).__exit__(None, None, None)
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 2


def test_missing_config_is_named(state, tmp_path):
    with Checkpoints(toy.config(), tmp_path) as checkpoints:
        checkpoints.save(2, state)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing or damaged"):
        Checkpoints(toy.config(), tmp_path)


def test_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MissingError, match="file/run cannot be written"):
        Checkpoints(toy.config(), tmp_path / "file" / "run")
    if os.getuid() != 0:  # root writes anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(MissingError, match="locked cannot be written"):
            Checkpoints(toy.config(), tmp_path / "locked")


def test_differences_walk_the_whole_config():
    saved = {"task": {"a": 1, "b": [1, 2]}, "gone": 3, "mesh": {"data": 1}}
    current = {"task": {"a": 1, "b": [1, 3]}, "new": "x", "mesh": {"data": 2}}
    assert config_file.differences(saved, current) == [
        "task.b was [1, 2], is [1, 3]",
        'new was null, is "x"',
        "gone was 3, is null",
    ]
