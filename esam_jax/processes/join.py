"""Several processes as one run: they meet before JAX starts and exit together.

The exit codes of a run of any number of processes, for launchers:

    0    finished
    1    a defect, of this package or of the machine: start again, a few times
    2    the user must change something first, named in one line: do not start again
    75   transient (EX_TEMPFAIL): a process did not come in time, a disk did not answer or did not
         take a checkpoint, no update finished in time (watchdog.py): start again, a few times
    130  interrupted from the keyboard
    143  ended by SIGTERM; the state is saved: start again
    134  ended by JAX (SIGABRT), since a peer was silent for the heartbeat: start again
"""

import atexit
import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from esam_jax import files
from esam_jax.config import PeersConfig
from esam_jax.errors import ConfigError, EsamError, PeerError, one_line
from esam_jax.machine import accelerators, compile_cache
from esam_jax.processes import coordinator, launcher
from esam_jax.words import counted

LEAVE_SECONDS = 5


@contextlib.contextmanager
def joined(peers: PeersConfig, environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Meets the other processes before JAX starts, if there are any, and exits with them.

    PeerError when they do not come in time; ConfigError when JAX then sees other counts than the
    user or the launcher gave.
    """
    met = False
    try:
        expected = launcher.processes(peers, environment)
        if launcher.is_one_of_several(peers, environment):
            _join(peers, environment)
            met = True
        accelerators.require_some()
        if met:
            _require_processes(expected)
        _require_gpus(environment)
        _require_devices(peers.devices)
        _require_shared_cache(environment)
        yield
        coordinator.meet("the end of the run")  # process 0 writes the models while the others wait
    except SystemExit:
        raise
    except BaseException as error:
        if coordinator.client() is not None:
            # At exit JAX waits for peers that wait for this process. They notice when it is gone.
            atexit.register(_leave, _exit_code(error), met)
        raise


def _join(peers: PeersConfig, environment: Mapping[str, str]) -> None:
    """Joins within `join_seconds`; JAX finds out what neither flags nor environment say."""
    # A rule that is broken must raise here, not in the thread.
    count, number = launcher.processes(peers, environment), launcher.number(peers, environment)
    devices = launcher.local_devices(environment)
    faults: list[Exception] = []

    def initialize() -> None:
        try:
            jax.distributed.initialize(
                peers.coordinator,
                num_processes=count,
                process_id=number,
                local_device_ids=devices,
                initialization_timeout=2 * peers.join_seconds,
                heartbeat_timeout_seconds=peers.heartbeat_seconds,
            )
        except Exception as fault:
            faults.append(fault)

    # At its own timeout JAX aborts the process without a message that a user could act on.
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
        raise PeerError(_nobody_came(coordinator.state(), peers.join_seconds))


def _nobody_came(state: Any, seconds: int) -> str:
    """What is known of peers that could not be met, and what to do about it."""
    if state.coordinator_address is None:  # JAX was still looking for names
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


def _require_processes(expected: int | None) -> None:
    # A process that does not see its peers would train alone, in the shared folder.
    if expected is not None and jax.process_count() != expected:
        raise ConfigError(
            f"there should be {counted(expected, 'process', 'processes')}, but JAX sees "
            f"{jax.process_count()}: start each "
            "with the same count and coordinator, and a JAX that knows this accelerator"
        )


def _require_gpus(environment: Mapping[str, str]) -> None:
    # One process a GPU that falls back to the CPU has one device, too: a count does not notice it.
    given = launcher.visible_gpus(environment)
    wanted = environment.get("JAX_PLATFORMS", "").split(",")
    if given and jax.default_backend() == "cpu" and "cpu" not in wanted:
        raise ConfigError(
            f"this process was given GPUs ({given}), but JAX has only the CPU: install "
            '"jax[cuda13]", check the driver with nvidia-smi, or set JAX_PLATFORMS=cpu'
        )


def _require_devices(wanted: int | None) -> None:
    if wanted is None or jax.device_count() == wanted:
        return
    # All processes see the same count, so all come here.
    here = f"{jax.local_device_count()} {socket.gethostname()}"
    raise ConfigError(
        f"there should be {counted(wanted, 'device')}, but JAX sees "
        f"{counted(jax.device_count(), f'{jax.default_backend()} device')} in "
        f"{counted(jax.process_count(), 'process', 'processes')}"
        f"{_short_of_devices(coordinator.gather('the count of devices', here))}: repair the hosts "
        "or their drivers, or change --peers.devices"
    )


def _short_of_devices(seen: list[str]) -> str:
    """Which hosts have fewer devices than others, of texts "COUNT HOST"; "" if all are equal."""
    counts = [(int(count), host) for count, host in (text.split(" ", 1) for text in seen)]
    most = max(counts)[0]
    short = [f"{count} on {host}" for count, host in counts if count < most]
    if not short:
        return ""
    more = f" and {len(short) - 8} other hosts" if len(short) > 8 else ""
    return f" ({', '.join(short[:8])}{more}, {most} on each of the others)"


def _require_shared_cache(environment: Mapping[str, str]) -> None:
    """Turns the compilation cache off in several processes, unless the user names its folder.

    On GPUs XLA times kernels for a program in all processes together, each some of them. JAX writes
    the cache from process 0 alone: with a folder of its own, that process finds the program at the
    next start and times none, and the others wait for it until the watchdog ends them.
    """
    if jax.process_count() == 1 or compile_cache.is_named(environment):
        return
    if jax.process_index() == 0 and compile_cache.current() is not None:
        print(
            "esam: several processes keep no compiled programs: to keep them, name a folder that "
            f"all hosts share ({compile_cache.SWITCH})",
            file=sys.stderr,
        )
    compile_cache.off()


def _exit_code(error: BaseException) -> int:
    """As the command line has it."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    known = error if isinstance(error, EsamError) else files.refusal(error)
    return 1 if known is None else known.exit_code


def _leave(code: int, met: bool) -> None:
    """Exits with the others if all were met and fail alike, else alone."""
    service = coordinator.client()
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        if service is not None and met:
            service.wait_at_barrier("esam_jax/failed", 1000 * LEAVE_SECONDS)
            return  # so that JAX's own shutdown does not wait
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
