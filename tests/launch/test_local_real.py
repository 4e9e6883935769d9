"""launch/local.sh over the real loop, as two processes that train the toy task: one is killed."""

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

from esam_jax.config import SaveConfig

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 40


def train(arguments):
    """`esam train`, except for the task and its data."""
    import jax
    from helpers import toy

    # What the command line does, before JAX starts.
    jax.distributed.initialize(
        num_processes=int(os.environ["JAX_NUM_PROCESSES"]),
        process_id=int(os.environ["JAX_PROCESS_ID"]),
    )
    from esam_jax import tasks
    from esam_jax.config import MeshConfig
    from esam_jax.train import loop

    class Slow(toy.Stream):
        """Leaves the test time to find the run under way."""

        def __next__(self):
            time.sleep(0.1)
            return super().__next__()

    tasks.build = lambda cfg: toy.task()
    loop.loader.stream = Slow
    name, workdir = arguments[1], arguments[3]
    config = toy.config(name=name, steps=STEPS, mesh=MeshConfig(), save=SaveConfig(every_steps=5))
    loop.run(config, workdir)


@pytest.mark.slow
def test_a_killed_process_costs_a_restart_and_nothing_else(tmp_path):
    esam = tmp_path / "bin" / "esam"
    esam.parent.mkdir()
    esam.write_text(
        f"#!/bin/sh\necho $$ >>{shlex.quote(str(tmp_path))}/pids.$JAX_PROCESS_ID\n"
        f'exec {shlex.quote(sys.executable)} {shlex.quote(__file__)} "$@"\n'
    )
    esam.chmod(0o755)
    workdir = tmp_path / "run"
    process = subprocess.Popen(
        [str(ROOT / "launch" / "local.sh"), "toy", str(workdir)],
        env=os.environ
        | {
            "PATH": f"{esam.parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
            "PROCESSES": "2",
            "PAUSE": "0",
            "RESTARTS": "1",
            "GRACE": "1",
        },
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _wait_for(lambda: (workdir / "checkpoints" / "10").exists(), process)
        os.kill(int((tmp_path / "pids.1").read_text()), signal.SIGKILL)
        _, errors = process.communicate(timeout=300)
    finally:
        process.terminate()
        process.wait()
    assert process.returncode == 0, errors
    assert "exited with 137" in errors
    for number in range(2):
        assert len((tmp_path / f"pids.{number}").read_text().split()) == 2, errors
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, STEPS + 1))
    assert (workdir / "checkpoints" / str(STEPS)).exists()


def _wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


if __name__ == "__main__":
    train(sys.argv[1:])
