"""launch/slurm.sh over the real loop: processes that JAX joins by Slurm's variables train a toy."""

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
STAND_IN = pathlib.Path(__file__).parent / "slurm_stand_in.py"
STEPS = 12


def train(words):
    """`esam train`, except for the task and its data; the exit code."""
    import jax
    from helpers import toy_run

    flags = dict(zip(words[2::2], words[3::2]))
    peers = {"devices": int(flags["--peers.devices"])}
    try:
        return toy_run.main(
            {"workdir": flags["--workdir"], "steps": STEPS, "pause": 0.1, "peers": peers}
        )
    finally:
        with open(f"{os.environ['CLUSTER']}/gpus.{os.environ['SLURM_PROCID']}", "w") as note:
            note.write(str(jax.config.values["jax_cuda_visible_devices"]))


@pytest.fixture
def submit(tmp_path):
    """Submits a job to nodes that are all this machine, the first one under its real name."""
    (tmp_path / "bin").mkdir()
    python, here = shlex.quote(sys.executable), shlex.quote(__file__)
    tools = {each: f"{python} {STAND_IN} {each}" for each in ("sbatch", "srun", "scontrol")}
    for name, command in (tools | {"esam": f"{python} {here}"}).items():
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    node = {"cpus": 2, "gpus": 2, "state": "IDLE"}
    (tmp_path / "nodes.json").write_text(json.dumps({"localhost": node, "other": node}))
    started = []

    def make(*options, **environment):
        settings = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "JAX_PLATFORMS": "cpu",
            "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
            "CLUSTER": str(tmp_path),
            "PAUSE": "0",
            "RESTARTS": "1",
        }
        process = subprocess.Popen(
            ["sbatch", *options, ROOT / "launch" / "slurm.sh", "toy", tmp_path / "run"],
            env=os.environ | settings | environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield make
    for each in started:
        if each.poll() is None:
            each.kill()
            each.communicate()


@pytest.mark.slow
def test_a_killed_process_costs_a_restart_and_nothing_else(submit, tmp_path):
    """One process a GPU; the GPUs are pretended, and JAX gets the index of each."""
    job = submit("--ntasks-per-node=2", "--gpus-per-task=1")
    while not (tmp_path / "run" / "checkpoints" / "4").exists():
        assert job.poll() is None, job.communicate()
        time.sleep(0.02)
    os.kill(int((tmp_path / "task.1").read_text()), signal.SIGKILL)
    _, errors = job.communicate(timeout=300)
    assert job.returncode == 0, errors
    assert "the run exited with 137 and is started again" in errors
    metrics = tmp_path / "run" / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert sorted(set(steps)) == list(range(1, STEPS + 1))
    assert (tmp_path / "run" / "checkpoints" / str(STEPS)).exists()
    assert [(tmp_path / f"gpus.{task}").read_text() for task in range(2)] == ["0", "1"]


@pytest.mark.slow
def test_fewer_devices_than_the_job_has_end_it(submit, tmp_path):
    """Two nodes of two GPUs each, where JAX sees one device a process."""
    job = submit("--nodes=2", "--gpus-per-node=2")
    _, errors = job.communicate(timeout=300)
    assert job.returncode == 2, errors
    for task in range(2):
        assert (
            f"{task}: esam: there should be 4 devices, but JAX sees 2 cpu devices in 2 processes: "
            "repair the hosts or their drivers" in errors
        )
    assert "started again" not in errors and not (tmp_path / "run" / "metrics.jsonl").exists()
    assert [(tmp_path / f"gpus.{task}").read_text() for task in range(2)] == ["0,1", "0,1"]


if __name__ == "__main__":
    sys.exit(train(sys.argv[1:]))
