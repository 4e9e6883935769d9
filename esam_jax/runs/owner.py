"""Who trains in a run folder: `owner.json` names the process while it runs.

A second job on the same machine is refused. From another machine nobody can see whether that
process still lives, so a job there warns and continues. No clocks are compared.
"""

import contextlib
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from esam_jax import files
from esam_jax.errors import CheckpointError, DiskError, EsamError, MissingError
from esam_jax.processes import leader

OWNER_FILE = "owner.json"
_ENDING_SECONDS = 1.0  # that a killed process may still be listed, on a busy machine


@contextlib.contextmanager
def owned(workdir: Path, *, resumed: bool) -> Iterator[None]:
    """Holds the folder, which is made if it does not exist; every process of a run calls it.

    CheckpointError names a process of this machine that holds it, a warning one of another machine.
    Errors of the disk as `writing`.
    """
    leader.decide(lambda: _claim(workdir, resumed))
    try:
        yield
    finally:
        file = workdir / OWNER_FILE
        with contextlib.suppress(OSError):
            found = _read(file)
            if (found.get("machine"), found.get("pid")) == (_machine(), os.getpid()):
                file.unlink()


@contextlib.contextmanager
def writing(workdir: Path, *, resumed: bool) -> Iterator[None]:
    """Turns an OSError into a MissingError, or a DiskError where the folder held a run before."""
    try:
        yield
    except EsamError:
        raise
    except OSError as fault:
        message = f"workdir {workdir} cannot be written ({fault.strerror})"
        if resumed:
            raise DiskError(f"{message}. It could be written before: start again") from fault
        raise MissingError(f"{message}: make room or name another folder with --workdir") from fault


def _claim(workdir: Path, resumed: bool) -> None:
    file = workdir / OWNER_FILE
    with writing(workdir, resumed=resumed):
        workdir.mkdir(parents=True, exist_ok=True)
        with files.locked(workdir):
            found = _read(file)
            words = f"process {found.get('pid')} on {found.get('host')}, since {found.get('since')}"
            if _is_alive(found):
                raise CheckpointError(
                    f"{workdir} is in use by {words}: wait for that job, end it, or name another "
                    "folder with --workdir"
                )
            if found and found.get("machine") != _machine():
                warnings.warn(
                    f"{file} names {words}, which did not end cleanly. If it still runs, end one "
                    "of the two: both would write",
                    UserWarning,
                    stacklevel=2,
                )
            files.write(
                file,
                json.dumps(
                    {
                        "host": socket.gethostname(),
                        "machine": _machine(),
                        "pid": os.getpid(),
                        "started": _started(os.getpid()),
                        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
                    }
                ),
            )


def _read(file: Path) -> dict[str, Any]:
    """The content of the file; {} where there is none, or a crash left it incomplete."""
    try:
        found = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_alive(found: dict[str, Any]) -> bool:
    """Whether the process that is named runs on this machine, a second later too."""
    if "pid" not in found or found.get("machine") != _machine():
        return False
    end = time.monotonic() + _ENDING_SECONDS
    while _started(found["pid"]) == found.get("started") is not None:
        if time.monotonic() > end:
            return True
        time.sleep(_ENDING_SECONDS / 20)
    return False


def _machine() -> str:
    """Where a process number means the same: this boot of this machine, in this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """When a process of this machine began, in units of the kernel; None for one that has ended."""
    try:
        # The name in parentheses may hold spaces. Then: state, ..., start in ticks since the boot.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"
