"""Checkpoints of two processes: one decides, both agree, and one process reads what two wrote."""

import pathlib
import shutil

import pytest
from helpers import processes, steps

from esam_jax.config import SaveConfig
from esam_jax.train.checkpoint import step_folders
from esam_jax.train.checkpoint.manager import Checkpoints

TWO = """
import os, pathlib, sys, warnings
import jax
jax.distributed.initialize(num_processes=2, process_id=int(os.environ["JAX_PROCESS_ID"]))
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
sys.path.insert(0, sys.argv[1])
from helpers import steps
from esam_jax import sharding
from esam_jax.config import MeshConfig, SaveConfig
from esam_jax.errors import CheckpointError
from esam_jax.train.checkpoint.manager import Checkpoints

folder, mesh = pathlib.Path(sys.argv[2]), sharding.make_mesh(MeshConfig(fsdp=2))
steps.place = lambda: NamedSharding(mesh, P())

def state(step):
    split = NamedSharding(mesh, P("fsdp"))
    host = jax.tree.map(np.asarray, steps.state(step))
    def put(x):
        where = split if x.ndim == 2 else steps.place()
        return jax.make_array_from_callback(x.shape, where, lambda index: x[index])
    return jax.tree.map(put, host)

def saves(first, last):
    with Checkpoints(SaveConfig(best="box_miou"), folder, steps.template(state(0))) as checkpoints:
        for step in range(first, last + 1):
            checkpoints.save(step, state(step))
            checkpoints.score(step, {"box_miou": -step})
        checkpoints.wait()
        print(checkpoints.check(), flush=True)

def restored(**save):
    with Checkpoints(SaveConfig(**save), folder, steps.template(state(0))) as checkpoints:
        found = checkpoints.restore(steps.template(state(0)))
        for ours, theirs in zip(*map(jax.tree.leaves, (state(checkpoints.latest()), found))):
            for a, b in zip(ours.addressable_shards, theirs.addressable_shards):
                np.testing.assert_array_equal(a.data, b.data)
        return checkpoints.latest()
"""

SAVES = "saves(1, 4); print(restored())"
FAULTS = """
warnings.simplefilter("ignore")
for policy in ("stop", "fallback"):
    try:
        print(restored(damaged=policy))
    except CheckpointError as error:
        print("refused:", error)
"""


@pytest.fixture
def run(tmp_path):
    tests = pathlib.Path(processes.__file__).parents[1]

    def start(code):
        command = ["-c", TWO + code, str(tests), str(tmp_path)]
        outputs = processes.finish(processes.start(command, 2))
        return [
            [line for line in output.splitlines() if not line.startswith("[Gloo]")]
            for output, _ in outputs
        ]

    return start


@pytest.mark.slow
def test_two_processes_save_keep_and_read(run, tmp_path):
    assert run(SAVES) == [["[]", "4"]] * 2
    folder = tmp_path / "checkpoints"
    assert step_folders.steps(folder) == [1, 3, 4]  # 1 has the best score
    steps.assert_restores(tmp_path, 4)  # by one process

    # F09: what the second process wrote is gone.
    shutil.rmtree(folder / "4" / "state" / "ocdbt.process_1")
    for first, second in run(FAULTS):
        assert "checkpoints/4 cannot be read" in first and second == "3"
    assert (folder / "4.damaged").is_dir()
    with Checkpoints(SaveConfig(), tmp_path) as checkpoints:
        assert checkpoints.latest() == 3
