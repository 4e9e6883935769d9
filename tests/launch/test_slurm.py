"""launch/slurm.sh: what becomes of the job. Slurm's commands are stand-ins (slurm_stand_in.py)."""

import itertools
import json
import pathlib
import subprocess
import sys

import pytest

from esam_jax.config import PeersConfig
from esam_jax.processes import launcher as processes

STAND_IN = pathlib.Path(__file__).parent / "slurm_stand_in.py"
COMMANDS = ("sbatch", "srun", "scontrol", "scancel")
DONE = "def plan(number, attempt):\n    return 0\n"


@pytest.fixture
def slurm(launcher):
    """A job of that plan on a cluster of that many nodes, submitted with those options.

    `cpus` of each node, or of all of them.
    """

    def make(plan, *options, nodes=1, gpus=0, cpus=16):
        job = launcher(plan, script="slurm.sh")
        for command in COMMANDS:
            job.tool(command, f'#!/bin/sh\nexec {sys.executable} -S {STAND_IN} {command} "$@"\n')
        cluster = {
            f"node{number}": {"cpus": count, "gpus": gpus, "state": "IDLE"}
            for number, count in enumerate([cpus] * nodes if isinstance(cpus, int) else cpus)
        }
        (job.folder / "nodes.json").write_text(json.dumps(cluster))
        job.command = [str(job.folder / "bin" / "sbatch"), *options, *job.command]
        return job

    return make


def run(job, *arguments, **environment):
    return start(job, *arguments, **environment).finish()


def start(job, *arguments, **environment):
    return job.start(*arguments, CLUSTER=str(job.folder), **environment)


def said(job, command):
    lines = (job.folder / "said").read_text().splitlines()
    return [line.partition(" ")[2] for line in lines if line.startswith(f"{command} ")]


def tell(job, *command):
    """What a person, or Slurm itself, does to the job from elsewhere."""
    environment = {"CLUSTER": str(job.folder)}
    subprocess.run([sys.executable, "-S", STAND_IN, *command], env=environment, check=True)


def gpus_of_nodes(job):
    """The GPUs that the processes of each node take, in all; no GPU may be there twice."""
    taken = {}
    for environment in job.environments().values():
        visible = environment["CUDA_VISIBLE_DEVICES"].split(",")
        mine = [visible[place] for place in processes.local_devices(environment)]
        taken.setdefault(environment["SLURMD_NODENAME"], []).extend(mine)
    return {name: sorted(gpus) for name, gpus in taken.items()}


def test_one_process_a_node_takes_all_its_gpus_and_cpus(slurm):
    job = slurm(DONE, "--nodes=2", "--gpus-per-node=4", nodes=2, gpus=4)
    assert run(job, "--name", "two words") == 0
    assert job.notes("start").keys() == {(0, 0), (1, 0)}
    arguments = ["train", "toy", "--workdir", str(job.workdir), "--peers.devices", "8"]
    for text in job.notes("start").values():
        assert text.splitlines()[-8:] == [*arguments, "--name", "two words"]
    assert gpus_of_nodes(job) == {name: list("0123") for name in ("node0", "node1")}
    for environment in job.environments().values():
        assert processes.processes(PeersConfig(), environment) == 2
        assert environment["SLURM_CPUS_PER_TASK"] == "16"


@pytest.mark.parametrize("gpus", ["--gpus-per-node=4", "--gpus-per-task=1", "--gpus=h100:8"])
def test_one_process_a_gpu_takes_its_own(slurm, gpus):
    job = slurm(DONE, "--nodes=2", "--ntasks-per-node=4", gpus, nodes=2, gpus=4)
    assert run(job) == 0
    assert job.notes("start").keys() == {(number, 0) for number in range(8)}
    assert gpus_of_nodes(job) == {name: list("0123") for name in ("node0", "node1")}
    for environment in job.environments().values():
        assert processes.processes(PeersConfig(), environment) == 8
        assert len(processes.local_devices(environment)) == 1
        assert environment["SLURM_CPUS_PER_TASK"] == "4"
    assert all("--peers.devices 8" in each for each in said(job, "srun"))


def test_a_part_of_a_node(slurm):
    options = ("--oversubscribe", "--cpus-per-task=3", "--mem=10G", "--gpus-per-node=1")
    job = slurm(DONE, *options, gpus=4)
    assert run(job) == 0
    (environment,) = job.environments().values()
    assert environment["SLURM_CPUS_PER_TASK"] == environment["SLURM_CPUS_ON_NODE"] == "3"
    assert environment["SLURM_MEM_PER_NODE"] == "10G"


def test_more_processes_than_cpus_have_one_each(slurm):
    job = slurm(DONE, "--ntasks-per-node=4", "--oversubscribe", cpus=4)
    assert run(job) == 0
    assert {each["SLURM_CPUS_PER_TASK"] for each in job.environments().values()} == {"1"}


@pytest.mark.parametrize("cpus", [(16, 16, 9), (9, 16, 16), (16, 9, 128)])
def test_nodes_of_different_sizes_give_as_many_cpus_as_the_smallest_has(slurm, cpus):
    """As numbers: 9 is less than 16."""
    job = slurm(DONE, "--nodes=3", cpus=cpus)
    assert run(job) == 0
    assert job.notes("start").keys() == {(number, 0) for number in range(3)}
    assert {each["SLURM_CPUS_PER_TASK"] for each in job.environments().values()} == {"9"}


@pytest.mark.parametrize(
    ("settings", "flags"), [({}, []), ({"DEVICES": "4"}, ["4"]), ({"DEVICES": "0"}, [])]
)
def test_without_gpus_devices_are_counted_where_the_user_says_so(slurm, settings, flags):
    job = slurm(DONE)
    assert run(job, **settings) == 0
    arguments = job.notes("start")[0, 0].splitlines()
    assert [b for a, b in itertools.pairwise(arguments) if a == "--peers.devices"] == flags


def test_the_log_says_which_process_speaks(slurm):
    job = slurm(
        "def plan(number, attempt):\n    print('hello', flush=True)\n    return 0\n",
        "--ntasks-per-node=2",
    )
    assert run(job) == 0
    assert {"0: hello", "1: hello"} <= set(job.errors.splitlines())


def test_a_run_that_recovers_is_done(slurm):
    job = slurm("def plan(number, attempt):\n    return 1 if attempt < 2 else 0\n")
    assert run(job, "--name", "two words", RESTARTS="2") == 0
    assert job.notes("start")[0, 2].splitlines()[-2:] == ["--name", "two words"]
    assert not said(job, "scontrol requeue")


def test_restarts_are_counted_from_the_newest_checkpoint(slurm):
    job = slurm("def plan(number, attempt):\n    save(8 + min(attempt, 3))\n    return 134\n")
    assert run(job, RESTARTS="1") == 134
    assert len(job.notes("start")) == 5
    assert "queued again" not in job.errors


def test_what_the_user_must_mend_ends_the_job(slurm):
    job = slurm("def plan(number, attempt):\n    return 2\n")
    assert run(job) == 2
    assert len(job.notes("start")) == 1 and "queued again" not in job.errors


def test_a_preempted_job_is_queued_again_and_resumes(slurm):
    job = slurm(
        "def plan(number, attempt):\n    if attempt == 0:\n        note('ready')\n        wait()\n",
        "--nodes=2",
        nodes=2,
    )
    start(job, RESTARTS="0").wait_for("ready", 2)
    tell(job, "scancel", "--signal=TERM", "7")  # as Slurm itself signals: the processes alone
    assert job.finish() == 0
    assert "the state is saved: job 7 is queued again" in job.errors
    assert job.notes("term").keys() == {(0, 0), (1, 0)}
    restarts = {key: each.get("SLURM_RESTART_COUNT") for key, each in job.environments().items()}
    assert restarts == {(0, 0): None, (1, 0): None, (0, 1): "1", (1, 1): "1"}


@pytest.mark.parametrize(
    ("state", "code"),
    [("DOWN+NOT_RESPONDING", 134), ("ALLOCATED*", 137), ("ALLOCATED+DRAIN", 2), ("FAIL", 75)],
)
def test_a_lost_node_is_left_behind(slurm, state, code):
    """Also where its GPUs are missing, which alone would be for the user to repair (2)."""
    job = slurm(
        "def plan(number, attempt):\n"
        "    if attempt == 0:\n"
        "        peers_started(2)\n"
        "        if number == 1:\n"
        "            nodes = json.loads((folder / 'nodes.json').read_text())\n"
        f"            nodes['node1']['state'] = {state!r}\n"
        "            (folder / 'nodes.json').write_text(json.dumps(nodes))\n"
        f"        return {code}\n"
        "    return 0\n",
        "--nodes=2",
        nodes=3,
    )
    assert run(job, RESTARTS="0") == 0
    assert f"node1 is {state}: job 7 is queued again" in job.errors
    names = {key: each["SLURMD_NODENAME"] for key, each in job.environments().items()}
    assert names == {(0, 0): "node0", (1, 0): "node1", (0, 1): "node0", (1, 1): "node2"}


def test_told_to_stop_it_forwards_waits_and_is_not_queued_again(slurm):
    job = slurm("def plan(number, attempt):\n    note('ready')\n    wait()\n")
    start(job).wait_for("ready")
    tell(job, "scancel", "--batch", "--signal=TERM", "7")
    assert job.finish() == 143
    assert job.notes("term").keys() == {(0, 0)}
    assert "stopped on request" in job.errors and "queued again" not in job.errors
    assert len(job.notes("start")) == 1


def test_processes_that_do_not_end_are_killed(slurm):
    """A minute after the first; all are then started again."""
    job = slurm(
        "def plan(number, attempt):\n"
        "    peers_started(2)\n"
        "    if attempt == 0:\n"
        "        deaf()\n"
        "        return 134 if number == 0 else wait()\n",
        "--ntasks-per-node=2",
    )
    assert run(job, RESTARTS="1") == 0
    assert len(job.notes("start")) == 4


_APPTAINER = """#!/bin/bash
[[ $1 == exec && $2 == --nv && $3 == --bind && $5 == *.sif ]] || exit 255
printf '%s\\n' "$4" "$5" >>{folder}/apptainer
exec "${{@:6}}"
"""


@pytest.mark.parametrize(("mounts", "more"), [({}, ""), ({"MOUNTS": "/data:/d"}, ",/data:/d")])
def test_an_image_file_runs_in_apptainer(slurm, mounts, more):
    job = slurm(DONE)
    job.tool("apptainer", _APPTAINER.format(folder=job.folder))
    assert run(job, "--name", "two words", CONTAINER="/images/esam.sif", **mounts) == 0
    seen = (job.folder / "apptainer").read_text().splitlines()
    assert seen == [f"{job.workdir}{more}", "/images/esam.sif"]
    assert job.notes("start")[0, 0].splitlines()[-2:] == ["--name", "two words"]
    assert job.workdir.is_dir()  # else it could not be mounted


@pytest.mark.parametrize("image", [{}, {"CONTAINER": "/images/esam.sif"}, {"CONTAINER": "esam:1"}])
def test_a_bucket_for_a_folder_starts_nothing_and_makes_nothing(slurm, image, monkeypatch):
    job = slurm(DONE)
    (job.folder / "pyxis").touch()
    (job.folder / "empty").mkdir()
    monkeypatch.chdir(job.folder / "empty")
    job.workdir = "gs://bucket/run"
    assert run(job, **image) == 2
    assert "launch: WORKDIR=gs://bucket/run is a bucket or URL: name a folder on" in job.errors
    assert not job.notes("start") and list((job.folder / "empty").iterdir()) == []


@pytest.mark.parametrize(("mounts", "more"), [({}, ""), ({"MOUNTS": "/data:/d"}, ",/data:/d")])
def test_any_other_image_runs_in_pyxis(slurm, mounts, more):
    job = slurm(DONE, "--ntasks-per-node=2")
    (job.folder / "pyxis").touch()
    assert run(job, CONTAINER="registry/esam:cuda13", **mounts) == 0
    for environment in job.environments().values():
        assert environment["PYXIS_IMAGE"] == "registry/esam:cuda13"
        assert environment["PYXIS_MOUNTS"] == f"{job.workdir}:{job.workdir}{more}"


def test_a_cluster_without_pyxis_is_reported(slurm):
    job = slurm(DONE)
    assert run(job, CONTAINER="registry/esam:cuda13") == 2
    assert "needs pyxis, which this Slurm lacks: name a .sif" in job.errors
    assert not job.notes("start")


def test_a_workdir_is_the_same_folder_for_all(slurm):
    """A container starts in another one."""
    job = slurm(DONE)
    job.workdir = job.folder / "bin" / ".." / "run"
    assert run(job) == 0
    assert str(job.folder / "run") in job.notes("start")[0, 0].splitlines()


def test_process_0_listens_on_the_interface_that_was_named(slurm):
    job = slurm(DONE)
    job.tool("ip", "#!/bin/sh\necho '2: ib0    inet 10.1.2.3/16 brd 10.1.255.255 scope global'\n")
    assert run(job, INTERFACE="ib0") == 0
    seen = job.environments()[0, 0]
    assert seen["JAX_COORDINATOR_ADDRESS"] == "10.1.2.3:61447"
    assert seen["JAX_COORDINATOR_BIND_ADDRESS"] == "10.1.2.3:61447"


def test_an_interface_without_an_address_is_refused(slurm):
    job = slurm(DONE)
    job.tool("ip", "#!/bin/sh\nexit 1\n")
    assert run(job, INTERFACE="ib9") == 2
    assert "INTERFACE=ib9" in job.errors and not job.notes("start")
