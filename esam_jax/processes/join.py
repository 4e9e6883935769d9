"""Several processes as one run: they meet, compare what they are about to do, and stop together.

What a run of any number of processes leaves with, so that a launcher knows what to do:

    0    finished
    1    a defect, of ours or of the machine: start again, a few times
    2    something to mend first, said in one line: do not start again
    75   what may pass (EX_TEMPFAIL): a process did not come in time, a disk did not answer or
         take a checkpoint, no update finished in time (watchdog.py): start again, a few times
    130  interrupted from the keyboard
    143  told to end by SIGTERM; the state is saved: start again
    134  ended by JAX (SIGABRT), since a peer was silent for the heartbeat: start again
"""

import atexit
import contextlib
import functools
import itertools
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax._src import distributed  # its key-value store has no public name
from jax.experimental import multihost_utils

from esam_jax.config import PeersConfig
from esam_jax.errors import ConfigError, EsamError, PeerError, one_line

EXIT_TERMINATED = 128 + signal.SIGTERM  # what a shell reports for a process ended by SIGTERM
MEET_SECONDS = 1800  # hosts read checkpoints and the teacher at different speeds
LEAVE_SECONDS = 5
_meetings = itertools.count()  # every host holds the same meetings in the same order
_asked = itertools.count(1)  # how often this process has asked whether to stop


class Terminated(SystemExit):
    """SIGTERM came: the state is saved, and the process leaves with exit code 143."""

    def __init__(self) -> None:
        super().__init__(EXIT_TERMINATED)


@contextlib.contextmanager
def joined(peers: PeersConfig, environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Meets the other processes before JAX starts, if there are any, and leaves with them.

    PeerError when they do not come in time; ConfigError when JAX then sees other counts than were
    told.
    """
    met = False
    try:
        told = told_processes(peers, environment)
        if is_one_of_several(peers, environment):
            _join(peers, environment)
            met = True
            _require_processes(told)
        _require_devices(peers.devices)
        yield
        meet("the end of the run")  # process 0 writes the models while the others wait
    except SystemExit:
        raise
    except BaseException as error:
        if distributed.global_state.client is not None:
            # At exit JAX waits for peers that wait for this process. They notice when it is gone.
            atexit.register(_leave, _exit_code(error), met)
        raise


def is_one_of_several(peers: PeersConfig, environment: Mapping[str, str]) -> bool:
    """Whether there are peers to meet, by what the user, Slurm, Open MPI or a TPU pod set."""
    coordinator = peers.coordinator or environment.get("JAX_COORDINATOR_ADDRESS")
    return coordinator is not None or (told_processes(peers, environment) or 1) > 1


def told_processes(peers: PeersConfig, environment: Mapping[str, str]) -> int | None:
    """How many processes there are by the user or the launcher; None where nobody says."""
    if peers.processes is not None:
        return peers.processes
    # SLURM_NTASKS is also there in a batch script that starts this command without srun.
    for name in ("JAX_NUM_PROCESSES", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        if (count := _whole(environment, name)) is not None:
            return count
    # Kubernetes gives the hosts of one slice; the first name goes first in JAX too.
    for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
        if name in environment:
            slices = _whole(environment, "MEGASCALE_NUM_SLICES") or 1
            return len(environment[name].split(",")) * slices
    return _of_tpu_vms()


@functools.cache
def _of_tpu_vms() -> int | None:
    """Hosts of the slices that this TPU VM is one of, which Google's metadata server knows.

    None on any other machine, where nobody is asked.
    """
    try:
        from jax._src.clusters import cloud_tpu_cluster  # private: it may be gone in a release
    except ImportError:
        return None
    vms = cloud_tpu_cluster.GceTpuCluster
    return vms.get_process_count() if vms.is_env_present() else None


def _join(peers: PeersConfig, environment: Mapping[str, str]) -> None:
    """Joins within `join_seconds`; JAX finds out what neither flags nor environment say."""
    number = peers.process
    for name in ("JAX_PROCESS_ID", "OMPI_COMM_WORLD_RANK"):
        number = _whole(environment, name) if number is None else number
    faults: list[Exception] = []

    def initialize() -> None:
        try:
            jax.distributed.initialize(
                peers.coordinator,
                num_processes=told_processes(peers, environment),
                process_id=number,
                local_device_ids=_local_devices(environment),
                initialization_timeout=2 * peers.join_seconds,
                heartbeat_timeout_seconds=peers.heartbeat_seconds,
            )
        except Exception as fault:
            faults.append(fault)

    # At its own timeout JAX aborts the process without a word that a user could follow.
    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    thread.join(peers.join_seconds)
    if faults:
        late = isinstance(faults[0], RuntimeError)  # else it lacks an argument
        kind = PeerError if late else ConfigError
        raise kind(
            f"the other processes cannot be met ({one_line(faults[0])}): give "
            "--peers.coordinator, --peers.processes and --peers.process"
        ) from faults[0]
    if thread.is_alive():
        raise PeerError(_nobody_came(distributed.global_state, peers.join_seconds))


def _nobody_came(state: Any, seconds: int) -> str:
    """What is known of peers that could not be met, and what to do about it."""
    if state.coordinator_address is None:  # JAX was still asking for names
        return (
            f"nothing is known of the other processes after {seconds} s: give --peers.coordinator, "
            "--peers.processes and --peers.process, or raise --peers.join-seconds"
        )
    who = f"process {state.process_id} of {state.num_processes}"
    host, port = str(state.coordinator_address).rsplit(":", 1)
    answers = state.process_id == 0
    if not answers:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=2):
            answers = True
    if answers:
        return (
            f"{who} waited {seconds} s at {host}:{port}, but not all others came: start all of "
            "them, each with its own number and the same count, or raise --peers.join-seconds"
        )
    return (
        f"{who} waited {seconds} s, but the coordinator {host}:{port} cannot be reached: check "
        "that process 0 runs there and that the port is open, or raise --peers.join-seconds"
    )


def _local_devices(environment: Mapping[str, str]) -> list[int] | None:
    """All GPUs of a node that runs a single task, of which JAX would take the first one only."""
    tasks = environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    gpus = _whole(environment, "SLURM_GPUS_ON_NODE")
    alone = tasks == "1" or tasks.startswith("1(")
    if not alone or gpus is None or "JAX_LOCAL_DEVICE_IDS" in environment:
        return None
    return list(range(gpus))


def _require_processes(told: int | None) -> None:
    # A process that cannot see its peers would train alone, in the folder of all.
    if told is not None and jax.process_count() != told:
        raise ConfigError(
            f"there should be {told} processes, but JAX sees {jax.process_count()}: start each "
            "with the same count and coordinator, and a JAX that knows this accelerator"
        )


def _require_devices(wanted: int | None) -> None:
    if wanted is not None and jax.device_count() != wanted:
        raise ConfigError(
            f"there should be {wanted} devices, but JAX sees {jax.device_count()} "
            f"{jax.default_backend()} devices in {jax.process_count()} processes: mend the hosts "
            "or their drivers, or change --peers.devices"
        )


def _exit_code(error: BaseException) -> int:
    """As the command line has it."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    return error.exit_code if isinstance(error, EsamError) else 1


def _leave(code: int, met: bool) -> None:
    """Leaves with the others if they were met and fail alike, else alone."""
    client = distributed.global_state.client
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        if client is not None and met:
            client.wait_at_barrier("esam_jax/failed", 1000 * LEAVE_SECONDS)
            return  # JAX's own farewell will not have to wait
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def meet(where: str) -> None:
    """Returns when every host has come here; PeerError if one does not."""
    client = distributed.global_state.client
    if client is None:
        return
    try:
        client.wait_at_barrier(f"esam_jax/{next(_meetings)}: {where}", 1000 * MEET_SECONDS)
    except jax.errors.JaxRuntimeError as fault:
        raise PeerError(
            f"not every host came to {where} within {MEET_SECONDS} s ({one_line(fault)}): see what "
            "the others say, then start all of them again"
        ) from fault


def stop_agreed(terminated: threading.Event) -> bool:
    """Whether to stop after this update; SIGTERM on any host stops all of them at one step."""
    if jax.process_count() > 1:
        # JAX stops all hosts at the number after the highest that one has asked with, which is 1
        # when SIGTERM came before the first update: the numbers of a resumed run would be past it.
        return multihost_utils.reached_preemption_sync_point(next(_asked))
    return terminated.is_set()


@contextlib.contextmanager
def sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, so that the update under way can end. Threads cannot listen."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield event  # with several hosts jax.distributed listens
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)


def _whole(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    if text is None:
        return None
    if not text.isdecimal():
        raise ConfigError(f"{name} is {text!r} in the environment, but must be a whole number")
    return int(text)
