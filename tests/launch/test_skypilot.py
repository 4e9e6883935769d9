"""launch/skypilot.yaml: its two blocks, run with SkyPilot's variables."""

import itertools
import pathlib
import subprocess

import pytest
import yaml

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
TASK = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())


@pytest.fixture
def node(launcher):
    """A node whose home has `esam` in the environment that `setup` makes."""
    made = launcher("def plan(number, attempt):\n    return 0\n")
    (made.folder / "esam").mkdir()
    (made.folder / "bin").rename(made.folder / "esam" / "bin")
    (made.folder / "bin").mkdir()
    return made


def block(node, name, **environment):
    path = f"{node.folder / 'bin'}:/usr/bin:/bin"
    settings = TASK["envs"] | {"HOME": str(node.folder), "PATH": path, "WORKDIR": str(node.workdir)}
    return subprocess.run(
        ["bash", "-c", TASK[name]],
        cwd=LAUNCH.parent,
        env={key: str(value) for key, value in (settings | environment).items()},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(("nodes", "gpus", "devices"), [(1, 8, ["8"]), (2, 4, ["8"]), (1, 0, [])])
def test_jax_must_see_the_gpus_of_all_nodes(node, nodes, gpus, devices):
    ips = "\n".join(f"10.0.0.{number}" for number in range(nodes))
    sky = {"SKYPILOT_NUM_NODES": nodes, "SKYPILOT_NODE_IPS": ips, "SKYPILOT_NODE_RANK": nodes - 1}
    done = block(node, "run", SKYPILOT_NUM_GPUS_PER_NODE=gpus, ARGS="--steps 5", **sky)
    assert done.returncode == 0, done.stderr
    (words,) = (text.splitlines() for text in node.notes("start").values())
    assert [b for a, b in itertools.pairwise(words) if a == "--peers.devices"] == devices
    assert words[-2:] == ["--steps", "5"]
    (environment,) = node.environments().values()
    if nodes > 1:
        assert environment["JAX_COORDINATOR_ADDRESS"] == "10.0.0.0:8476"
        assert (environment["JAX_NUM_PROCESSES"], environment["JAX_PROCESS_ID"]) == ("2", "1")


@pytest.mark.parametrize(
    ("driver", "cuda"), [("580.65.06", "cuda13"), ("570.86.10", "cuda12"), ("590.1", "cuda13")]
)
def test_the_driver_decides_which_cuda_is_installed(node, driver, cuda):
    node.folder.joinpath("bin").mkdir(exist_ok=True)
    for name, text in {
        "mount.nfs": "exit 0",
        "mountpoint": "exit 0",
        "python3": f'echo "$@" >>{node.folder}/installed',
        "nvidia-smi": f"printf '%s\\n' {driver} {driver}",
    }.items():
        node.tool(name, f"#!/bin/sh\n{text}\n")
    done = block(node, "setup")
    assert done.returncode == 0, done.stderr
    assert f"jax[{cuda}]==" in (node.folder / "installed").read_text()
