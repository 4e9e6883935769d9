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


@pytest.mark.parametrize(
    ("environment", "devices"),
    [
        ({}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_GPUS_ON_NODE": "3"}, [0, 1, 2]),
        ({"SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_GPUS_ON_NODE": "2"}, [0, 1]),
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2)", "SLURM_GPUS_ON_NODE": "8"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "16(x2)", "SLURM_GPUS_ON_NODE": "8"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "1"}, None),  # a node without GPUs
    ],
)
def test_one_task_on_a_node_uses_all_its_gpus(environment, devices):
    assert launcher.local_devices(environment) == devices
