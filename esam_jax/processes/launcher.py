"""What the launcher says about this process: how many there are, which one it is, its devices."""

import functools
import pathlib
import re
from collections.abc import Mapping

from esam_jax.config import PeersConfig
from esam_jax.errors import ConfigError, one_line
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
    hosts = _hosts_of_slice(environment)
    if hosts is not None:
        return len(hosts.split(",")) * (_integer(environment, "MEGASCALE_NUM_SLICES") or 1)
    return _tpu_vm_processes()


def _hosts_of_slice(environment: Mapping[str, str]) -> str | None:
    """The hosts of one slice as Kubernetes lists them; in JAX, too, the first name has priority."""
    path = environment.get("TPU_PROCESS_ADDRESSES_PATH")
    if path:
        try:
            return pathlib.Path(path).read_text().strip()
        except OSError as fault:
            raise ConfigError(
                f"TPU_PROCESS_ADDRESSES_PATH is {path!r} in the environment, which cannot be read "
                f"({one_line(fault)}): unset it, or mount the file"
            ) from fault
    return environment.get("TPU_PROCESS_ADDRESSES", environment.get("TPU_WORKER_HOSTNAMES"))


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
    """The GPUs of this process, as numbers among those that it sees; None where JAX decides.

    Under Slurm and Open MPI JAX takes the GPU with the number of the process on its node. That is
    wrong where each sees only its own, as number 0 (jax issue 28194), and where it has several.
    ConfigError if the processes of a node would take the same GPU, or leave one idle.
    """
    place, seen = _place_on_node(environment), visible_gpus(environment)
    if place is None or not seen or "JAX_LOCAL_DEVICE_IDS" in environment:
        return None
    number, count = place
    on_node = _integer(environment, "SLURM_GPUS_ON_NODE") or seen
    share = _after_type(environment, "SLURM_GPUS_PER_TASK") or on_node // count
    if seen == share * count:  # all see all GPUs of the node
        return list(range(number * share, (number + 1) * share))
    if seen in (1, share) or seen * count <= on_node:  # each sees its own
        return list(range(seen))
    raise ConfigError(
        f"{count} processes on this node see {seen} of its {on_node} GPUs each, which cannot be "
        "divided among them: start one process a node, or as many as there are GPUs, with "
        "--gpu-bind=none under Slurm"
    )


def _place_on_node(environment: Mapping[str, str]) -> tuple[int, int] | None:
    """(number of this process on its node, processes there) of Slurm or Open MPI, else None."""
    for name, counted in (
        ("SLURM_LOCALID", _tasks_on_node(environment)),
        ("OMPI_COMM_WORLD_LOCAL_RANK", _integer(environment, "OMPI_COMM_WORLD_LOCAL_SIZE")),
    ):
        number = _integer(environment, name)
        if number is not None and counted:
            return number, counted
    return None


def _tasks_on_node(environment: Mapping[str, str]) -> int | None:
    """Tasks of the Slurm step on this node, from a list such as "8(x2),4"; None outside a step."""
    listed = environment.get("SLURM_STEP_TASKS_PER_NODE")
    if listed is None:
        return None
    counts = [
        int(count)
        for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", listed)
        for _ in range(int(times or 1))
    ]
    node = _integer(environment, "SLURM_NODEID") or 0
    return counts[node] if node < len(counts) else None


def visible_gpus(environment: Mapping[str, str]) -> int | None:
    """How many GPUs this process was given; None where the environment does not say."""
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return _integer(environment, "SLURM_GPUS_ON_NODE")
    # Slurm hides all GPUs by a name that stands for none.
    return 0 if listed in ("", "-1", "NoDevFiles") else len(listed.split(","))


def _after_type(environment: Mapping[str, str], name: str) -> int | None:
    """The count in a value such as "4" or "h100:4"."""
    text = environment.get(name, "").rsplit(":", 1)[-1]
    return _integer({name: text}, name) if text else None


def _integer(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    if text is None:
        return None
    if not text.isdecimal():
        raise ConfigError(f"{name} is {text!r} in the environment, but must be an integer")
    return int(text)
