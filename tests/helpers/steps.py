"""States that tell their step, saved in a run folder, and ways to damage them there."""

import jax
import numpy as np

from esam_jax import sharding
from esam_jax.config import (
    DataConfig,
    EvaluateConfig,
    MeshConfig,
    PromptedConfig,
    SaveConfig,
    ScenesConfig,
    SegmentConfig,
)
from esam_jax.runs import config_file
from esam_jax.train.checkpoint.manager import Checkpoints
from esam_jax.train.state import GuardState, TrainState
from helpers import toy

WIDE = 128  # large enough for a file of its own, which TensorStore reads without a checksum


def place():
    return sharding.replicated(sharding.make_mesh(MeshConfig(data=1)))


def state(step, width=WIDE, dtype=np.float32):
    values = np.random.default_rng(step).normal(size=(WIDE, width)).astype(dtype)
    number, score = np.int32(step), np.float32(step)
    fresh = TrainState(
        step=number,
        params={"wide": values, "narrow": values[0]},
        opt_state=(values * 2,),
        batches=number,
        guard=GuardState(number, number, number, score, number),
    )
    return jax.device_put(fresh, place())


def template(like=None):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like or state(0)
    )


def config(**save):
    """Of a run that is measured, as `save.best` needs."""
    scenes = ScenesConfig()
    return toy.config(
        task=SegmentConfig(model="efficientsam_nano"),
        data=DataConfig(source=scenes, view=PromptedConfig(image_px=64)),
        evaluate=EvaluateConfig(source=scenes),
        save=SaveConfig(**save),
    )


def saved(folder, *steps, **save):
    """The folder of checkpoints of a run with these steps, and its config."""
    folder.mkdir(parents=True, exist_ok=True)
    config_file.store(config(), folder)
    with Checkpoints(SaveConfig(**{"keep": 9} | save), folder) as checkpoints:
        for step in steps:
            checkpoints.save(step, state(step))
        checkpoints.wait()
        assert checkpoints.check() == []
    return folder / "checkpoints"


def assert_restores(folder, step, wanted=None, **save):
    with Checkpoints(SaveConfig(**save), folder) as checkpoints:
        found = checkpoints.restore(template())
        assert checkpoints.latest() == step
        for ours, theirs in zip(*map(jax.tree.leaves, (wanted or state(step), found)), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def spoil(step_folder, damage):
    """Damages the file of a step that holds most of its arrays."""
    files = [file for file in (step_folder / "state").rglob("*") if file.is_file()]
    largest = max(files, key=lambda file: file.stat().st_size)
    damage(largest)


def flip(file):
    spoilt = bytearray(file.read_bytes())
    spoilt[len(spoilt) // 2] ^= 16
    file.write_bytes(spoilt)


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
