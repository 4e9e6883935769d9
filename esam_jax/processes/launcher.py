"""What the launcher says about this process: how many there are, which one it is, its devices."""

import functools
from collections.abc import Mapping

from esam_jax.config import PeersConfig
from esam_jax.errors import ConfigError
from esam_jax.processes import coordinator


def is_one_of_several(peers: PeersConfig, environment: Mapping[str, str]) -> bool:
    """Whether there are peers to meet, as the user, Slurm, Open MPI or a TPU pod set."""
    address = peers.coordinator or environment.get("JAX_COORDINATOR_ADDRESS")
    return address is not None or (processes(peers, environment) or 1) > 1


def processes(peers: PeersConfig, environment: Mapping[str, str]) -> int | None:
    """How many processes there are by the user or the launcher; None where neither says."""
    if peers.processes is not None:
        return peers.processes
    # SLURM_NTASKS is also there in a batch script that starts this command without srun.
    for name in ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        if (count := _integer(environment, name)) is not None:
            return count
    # Kubernetes lists the hosts of one slice; the first name has priority in JAX too.
    for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        if name in environment:
            slices = _integer(environment, "MEGASCALE_NUM_SLICES") or 1
            return len(environment[name].split(",")) * slices
    return _tpu_vm_processes()


_tpu_vm_processes = functools.cache(coordinator.tpu_vm_processes)


def number(peers: PeersConfig, environment: Mapping[str, str]) -> int | None:
    """Which of the processes this one is; None where JAX finds it out."""
    if peers.process is not None:
        return peers.process
    for name in ("JAX_PROCESS_ID", "OMPI_COMM_WORLD_RANK"):
        if (value := _integer(environment, name)) is not None:
            return value
    return None


def local_devices(environment: Mapping[str, str]) -> list[int] | None:
    """All GPUs of a node that runs a single task, of which JAX would take the first one only."""
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    gpus = _integer(environment, "SLURM_GPUS_ON_NODE")
    alone = tasks == "1" or tasks.startswith("1(")
    if not alone or gpus is None or "JAX_LOCAL_DEVICE_IDS" in environment:
        return None
    return list(range(gpus))


def _integer(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    if text is None:
        return None
    if not text.isdecimal():
        raise ConfigError(f"{name} is {text!r} in the environment, but must be an integer")
    return int(text)
