"""Checkpoints: what comes back, what is refused, and what a broken disk does."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import toy

from esam_jax import sharding
from esam_jax.config import (
    MeshConfig,
    SaveConfig,
)
from esam_jax.errors import CheckpointError, MissingError
from esam_jax.train import state as states
from esam_jax.train.checkpoint import manager
from esam_jax.train.checkpoint.manager import Checkpoints


def template(mesh):
    cfg = toy.config()
    return toy.abstract(toy.task(), cfg, mesh)


@pytest.fixture(scope="module")
def state():
    cfg, mesh = toy.config(), sharding.make_mesh(MeshConfig(data=1))
    return toy.create(toy.task(), cfg, mesh)


def test_comes_back_to_the_bit_on_another_mesh(state, tmp_path):
    assert manager.newest(tmp_path) == 0 and not list(tmp_path.iterdir())
    with Checkpoints(SaveConfig(), tmp_path) as checkpoints:
        assert checkpoints.latest() is None
        checkpoints.save(3, state)
    wanted = template(sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2)))
    with Checkpoints(SaveConfig(), tmp_path) as checkpoints:
        assert checkpoints.latest() == 3
        restored = checkpoints.restore(wanted)
    for saved, abstract, found in zip(*map(jax.tree.leaves, (state, wanted, restored))):
        np.testing.assert_array_equal(saved, found)
        assert found.sharding == abstract.sharding


def test_only_the_newest_are_kept(state, tmp_path):
    with Checkpoints(SaveConfig(keep=2), tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state)
            checkpoints.wait()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]


def test_unfinished_save_is_no_checkpoint(state, tmp_path):
    with Checkpoints(SaveConfig(), tmp_path) as checkpoints:
        checkpoints.save(2, state)
    (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir()
    assert manager.newest(tmp_path) == 2
    with Checkpoints(SaveConfig(), tmp_path) as checkpoints:
        assert checkpoints.latest() == 2
        checkpoints.save(4, state)
    with Checkpoints(SaveConfig(), tmp_path) as checkpoints:
        assert checkpoints.latest() == 4


def test_damaged_checkpoint_is_refused_by_name(state, tmp_path):
    mesh = sharding.make_mesh(MeshConfig(data=1))
    with Checkpoints(SaveConfig(), tmp_path) as checkpoints:
        checkpoints.save(2, state)
    metadata = tmp_path / "checkpoints" / "2" / "state" / "_METADATA"
    metadata.write_bytes(metadata.read_bytes()[:100])
    with (
        Checkpoints(SaveConfig(), tmp_path) as checkpoints,
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
    with Checkpoints(SaveConfig(), tmp_path) as checkpoints:
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


def test_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MissingError, match="file/run cannot be written"):
        Checkpoints(SaveConfig(), tmp_path / "file" / "run")
    if os.getuid() != 0:  # root writes anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(MissingError, match="locked cannot be written"):
            Checkpoints(SaveConfig(), tmp_path / "locked")


def test_orbax_still_reports_preemption_by_itself(state, tmp_path, monkeypatch):
    """Once it does not, `_Manager` in manager.py is to be removed."""
    reported = []
    monkeypatch.setattr(
        manager._Manager, "reached_preemption", lambda self, step: reported.append(step)
    )
    with Checkpoints(SaveConfig(), tmp_path) as checkpoints:
        checkpoints.save(7, state)
    assert set(reported) == {7} and len(reported) > 1  # in `save`, and in its thread
