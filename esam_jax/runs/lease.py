"""One job at a time in a run folder: `lease.json` says who has it, and a counter that it lives.

Nothing compares the clocks of two machines: a process of this machine is asked whether it lives,
and one of another is watched, by our own clock, for a change of its counter.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from esam_jax.errors import CheckpointError, MissingError

LEASE_FILE = "lease.json"
BEAT_SECONDS = 5.0
PATIENCE_SECONDS = 40.0  # eight beats: a network file system may show files half a minute late
_LOOK_SECONDS = 0.5
_ENDING_SECONDS = 1.0  # that a killed process may still be seen, on a busy machine
_SIZE = 1024  # bytes; one size, so that a beat needs no room on a full disk


class Lease:
    """The right to write into a run folder, held until `release`.

    CheckpointError names a job that has it already; after a kill it is free at once on the same
    machine, on another one after PATIENCE_SECONDS.
    """

    def __init__(self, workdir: Path) -> None:
        self._file = workdir / LEASE_FILE
        self._owner = {
            "job": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
        }
        try:
            self._acquire(workdir)
        except OSError as fault:
            raise MissingError(
                f"{self._file} cannot be written ({fault.strerror}): make room or name another "
                "folder with --workdir"
            ) from fault
        self._lost = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """CheckpointError if another job has taken the folder, as after a long pause."""
        if self._lost:
            raise CheckpointError(
                f"{self._file.parent} was taken over by another job ({_words(self._read())}), for "
                "which this one looked dead: let only one of them run"
            )

    def release(self) -> None:
        """Lets another job have the folder."""
        self._ending.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if self._read().get("job") == self._owner["job"]:
                self._file.unlink()
        os.close(self._descriptor)

    def _acquire(self, workdir: Path) -> None:
        dead = None
        while True:
            with _alone(workdir):
                found = self._read()
                if not found or found == dead:
                    self._write_first()
                    return
            if self._lives(found):
                raise CheckpointError(
                    f"{workdir} is in use by {_words(found)}: wait for that job, end it, or name "
                    "another folder with --workdir"
                )
            dead = found

    def _write_first(self) -> None:
        fresh = self._file.with_name(f".{self._file.name}.{self._owner['job']}.new")
        # The beats go to this file whatever becomes of its name: never into a successor's.
        self._descriptor = os.open(fresh, os.O_CREAT | os.O_RDWR, 0o644)
        self._write(beat=0)
        fresh.replace(self._file)

    def _write(self, beat: int) -> None:
        text = json.dumps({**self._owner, "beat": beat}).ljust(_SIZE - 1) + "\n"
        os.pwrite(self._descriptor, text.encode(), 0)

    def _read(self) -> dict[str, Any]:
        """What the file says; {} where there is none."""
        try:
            return json.loads(self._file.read_text())
        except FileNotFoundError:
            return {}
        except ValueError:  # seen while it was written
            return {"beat": "unreadable"}

    def _beat(self) -> None:
        beat = 0
        while not self._ending.wait(BEAT_SECONDS):
            beat += 1
            with contextlib.suppress(OSError):  # a disk may come back
                if self._read().get("job") != self._owner["job"]:
                    self._lost = True
                    return
                self._write(beat)

    def _lives(self, found: dict[str, Any]) -> bool:
        if found.get("machine") == self._owner["machine"]:
            return self._outlasts_a_kill(found)
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)
            if (now := self._read()) != found:
                return bool(now)
        return False

    def _outlasts_a_kill(self, found: dict[str, Any]) -> bool:
        """Whether a process of this machine is still there when a killed one would be gone."""
        end = time.monotonic() + _ENDING_SECONDS
        while _started(found["pid"]) == found["started"] is not None:
            if time.monotonic() > end:
                return True
            time.sleep(_ENDING_SECONDS / 20)
        return False


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of two jobs that find a dead lease at once, the second sees what the first has written."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # not every network file system can lock a folder
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _machine() -> str:
    """Where a process number means the same: this boot of this machine, in this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """When a process of this machine began, in a word of its own; None for one that has ended."""
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


def _words(found: dict[str, Any]) -> str:
    if "pid" not in found:
        return "a job unknown"
    age = found["beat"] * BEAT_SECONDS
    return f"process {found['pid']} on {found['host']}, which began about {age:.0f} s ago"
