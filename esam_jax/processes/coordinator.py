"""The coordination service of `jax.distributed`: meetings and texts that all processes exchange.

Its key-value store and its barriers have no public name in JAX, so this file alone names the
private module. They need no device: a host that waits here blocks no collective.
"""

import itertools
from typing import Any

import jax
from jax._src import distributed

from esam_jax.errors import PeerError, one_line

MEET_SECONDS = 1800  # hosts read checkpoints and the teacher at different speeds
_meetings = itertools.count()  # every host holds the same meetings in the same order


def client() -> Any | None:
    """The client of the service; None for a process that has joined no others."""
    return distributed.global_state.client


def state() -> Any:
    """What JAX knows of the processes: `process_id`, `num_processes`, `coordinator_address`."""
    return distributed.global_state


def meet(where: str) -> None:
    """Returns when every host has called it; PeerError if one does not within MEET_SECONDS."""
    service = client()
    if service is None:
        return
    try:
        service.wait_at_barrier(f"esam_jax/{next(_meetings)}: {where}", 1000 * MEET_SECONDS)
    except jax.errors.JaxRuntimeError as fault:
        raise PeerError(
            f"not every host reached {where} within {MEET_SECONDS} s ({one_line(fault)}): see what "
            "the others report, then start all of them again"
        ) from fault


def gather(where: str, text: str) -> list[str]:
    """The text of every host, by process number; every host must call it. PeerError as `meet`."""
    service = client()
    if service is None:
        return [text]
    folder = f"esam_jax/gathered_{next(_meetings)}"
    service.key_value_set(f"{folder}/{state().process_id}", text)
    meet(where)
    found = by_process(service.key_value_dir_get(f"{folder}/"))
    return [found[number] for number in sorted(found)]


def by_process(entries: list[tuple[str, str]]) -> dict[int, str]:
    """The values of keys that end in the number of a process."""
    return {int(key.rsplit("/", 1)[-1]): value for key, value in entries}


def tpu_vm_processes() -> int | None:
    """Hosts of the slices that this TPU VM belongs to, as Google's metadata server reports them.

    None on any other machine, where nothing is queried.
    """
    try:
        from jax._src.clusters import cloud_tpu_cluster  # private: a release may drop it
    except ImportError:
        return None
    vms = cloud_tpu_cluster.GceTpuCluster
    return vms.get_process_count() if vms.is_env_present() else None
