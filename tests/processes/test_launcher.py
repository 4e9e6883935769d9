"""The number of processes and the devices, as launchers give them."""

import pytest
from jax._src.clusters import cloud_tpu_cluster

from esam_jax.config import PeersConfig
from esam_jax.errors import ConfigError
from esam_jax.processes import launcher


@pytest.mark.parametrize(
    ("environment", "count", "several"),
    [
        ({}, None, False),
        ({"SLURM_NTASKS": "8"}, None, False),  # a batch script, not a step of it
        ({"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8"}, 8, True),
        ({"SLURM_STEP_NUM_TASKS": "1"}, 1, False),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, 4, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, 1, False),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2"}, 2, True),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2", "MEGASCALE_NUM_SLICES": "3"}, 6, True),
        ({"TPU_PROCESS_ADDRESSES": "a:8471,b:8471,c:8471"}, 3, True),
        ({"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234"}, None, True),
        ({"JAX_NUM_PROCESSES": "2", "SLURM_STEP_NUM_TASKS": "8"}, 2, True),  # the user is right
    ],
)
def test_the_environment_gives_the_number_of_processes(environment, count, several):
    assert launcher.processes(PeersConfig(), environment) == count
    assert launcher.is_one_of_several(PeersConfig(), environment) == several
    assert launcher.processes(PeersConfig(processes=3), environment) == 3
    assert launcher.is_one_of_several(PeersConfig(processes=3), environment)


@pytest.fixture
def tpu_vm(monkeypatch):
    """As on a TPU VM: gives the attributes that Google's metadata server gives."""
    attributes = {}
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)  # JAX sets it where there is no TPU
    monkeypatch.setattr(
        cloud_tpu_cluster,
        "get_metadata",
        lambda key: (attributes[key], 200) if key in attributes else ("", 404),
    )
    launcher._tpu_vm_processes.cache_clear()
    yield attributes
    launcher._tpu_vm_processes.cache_clear()


@pytest.mark.parametrize(
    ("workers", "slices", "count"), [("a", 1, 1), ("a,b,c,d", 1, 4), ("x:1:a,y:2:b", 2, 4)]
)
def test_the_hosts_of_a_tpu_slice_are_in_its_metadata(tpu_vm, workers, slices, count):
    tpu_vm |= {"agent-worker-number": "0", "worker-network-endpoints": workers}
    tpu_vm["tpu-env"] = f"ZONE: 'here'\nMEGASCALE_NUM_SLICES: '{slices}'\n"
    assert launcher.processes(PeersConfig(), {}) == count
    assert launcher.is_one_of_several(PeersConfig(), {}) == (count > 1)
    assert launcher.processes(PeersConfig(processes=3), {}) == 3  # the user is right


def test_a_tpu_vm_that_belongs_to_no_slice(tpu_vm):
    assert launcher.processes(PeersConfig(), {}) is None


def test_a_count_that_is_none():
    with pytest.raises(ConfigError, match="JAX_NUM_PROCESSES is 'two' in the environment"):
        launcher.processes(PeersConfig(), {"JAX_NUM_PROCESSES": "two"})


def test_a_pod_lists_the_hosts_of_its_slice_in_a_file(tmp_path):
    file = tmp_path / "addresses"
    file.write_text("a:8471,b:8471\n")
    environment = {"TPU_PROCESS_ADDRESSES_PATH": str(file), "TPU_WORKER_HOSTNAMES": "a,b,c"}
    assert launcher.processes(PeersConfig(), environment) == 2
    assert launcher.processes(PeersConfig(), environment | {"MEGASCALE_NUM_SLICES": "3"}) == 6
    file.unlink()
    with pytest.raises(ConfigError, match=r"TPU_PROCESS_ADDRESSES_PATH is .* cannot be read"):
        launcher.processes(PeersConfig(), environment)


def slurm(tasks, task, gpus, visible, node=0, **more):
    """What a task of a step sees: tasks on each node, its number there, GPUs of the node."""
    environment = {
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        "SLURM_LOCALID": str(task),
        "SLURM_NODEID": str(node),
        "SLURM_GPUS_ON_NODE": gpus,
        "CUDA_VISIBLE_DEVICES": visible,
    } | more
    return {name: value for name, value in environment.items() if value is not None}


def open_mpi(processes, number, visible):
    return {
        "OMPI_COMM_WORLD_LOCAL_SIZE": str(processes),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(number),
        "CUDA_VISIBLE_DEVICES": visible,
    }


@pytest.mark.parametrize(
    ("environment", "devices"),
    [
        ({}, None),
        # One task a node takes all.
        (slurm("1(x2)", 0, "3", None, node=1), [0, 1, 2]),
        (slurm("1", 0, "2", "0,1"), [0, 1]),
        (slurm("1", 0, "8", "6,7"), [0, 1]),  # a shell that was given two of them
        # One a GPU, which sees its own alone: all are number 0 (--gpus-per-task=1).
        (slurm("4(x2)", 0, "4", "0", SLURM_GPUS_PER_TASK="1"), [0]),
        (slurm("4(x2)", 3, "4", "0", SLURM_GPUS_PER_TASK="h100:1"), [0]),
        (slurm("4(x2)", 3, "4", "3", SLURM_GPUS_PER_TASK="1"), [0]),  # without cgroups
        (slurm("4", 3, "1", "0"), [0]),  # counted for the task
        (slurm("4", 2, "8", "0,1", SLURM_GPUS_PER_TASK="2"), [0, 1]),
        (slurm("4", 2, "2", "0,1", SLURM_GPUS_PER_TASK="2"), [0, 1]),
        (slurm("4", 2, "8", "4,5"), [0, 1]),
        # One a GPU, and all see all of them (--gpu-bind=none).
        (slurm("8(x2)", 5, "8", "0,1,2,3,4,5,6,7", node=1), [5]),
        (slurm("4", 2, "4", "0,1,2,3", SLURM_GPUS_PER_TASK="1"), [2]),
        (slurm("4", 2, "4", "4,5,6,7"), [2]),  # a part of a node, numbered as on the whole
        (slurm("2", 1, "4", None), [2, 3]),
        (slurm("1,2", 1, "2", "0,1", node=1), [1]),  # another number of tasks on each node
        (slurm("1,2", 0, "2", "0,1", node=0), [0, 1]),
        # A node without GPUs; a batch script that is no step; the user is right.
        (slurm("1", 0, None, None), None),
        (slurm("2", 1, None, "NoDevFiles"), None),
        (slurm(None, 0, "8", "0,1,2,3,4,5,6,7"), None),
        (slurm("2", 1, "2", "0,1", JAX_LOCAL_DEVICE_IDS="0"), None),
        (open_mpi(1, 0, "0,1,2,3"), [0, 1, 2, 3]),
        (open_mpi(4, 3, "0,1,2,3"), [3]),
        (open_mpi(4, 3, "3"), [0]),
        (open_mpi(4, 3, ""), None),
    ],
)
def test_a_process_takes_its_own_gpus(environment, devices):
    assert launcher.local_devices(environment) == devices


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        (slurm("3", 0, "8", "0,1,2,3,4,5,6,7"), "3 processes on this node see 8 of its 8 GPUs"),
        (slurm("8", 5, "8", "4,5,6,7"), "8 processes on this node see 4 of its 8 GPUs"),  # closest
        (open_mpi(2, 0, "0,1,2"), "2 processes on this node see 3 of its 3 GPUs"),
    ],
)
def test_gpus_that_several_processes_would_take_are_refused(environment, text):
    with pytest.raises(ConfigError, match=f"{text} each.*--gpu-bind=none"):
        launcher.local_devices(environment)
