"""The alert hook: a command of the user's, run when something happens that a person should know.

It gets the facts in its environment and, as JSON, on its stdin. Training neither waits for it nor
notices when it fails; of several processes, the first that has something to say runs it.
"""

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import jax

from esam_jax.errors import ConfigError, one_line
from esam_jax.processes import coordinator

EVENTS = (
    "hang", "rollback", "full_disk", "failed_save", "damaged_checkpoint", "straggler", "finished",
    "stopped",
)  # fmt: skip
TIMEOUT_SECONDS = 15.0  # then the command is killed, with all that it has started
_FOLDER = "esam_jax/alert"
_ONCE = ("hang", "finished", "stopped")  # in the life of a process, whatever each has to say

Send = Callable[[str, str], None]  # event, message


def to_nobody(event: str, message: str) -> None:
    """Where there is no hook."""


def require(command: str | None) -> None:
    """ConfigError unless the command can be split into words and its program exists."""
    if command is None:
        return
    try:
        words = shlex.split(command)
    except ValueError as fault:
        raise ConfigError(f"alert is {command!r}, which is not a command ({fault})") from fault
    if not words or shutil.which(words[0]) is None:
        raise ConfigError(
            f"alert is {command!r}, but there is no program {''.join(words[:1])!r}: give the path "
            "of one that can be executed, and its arguments"
        )


class Alert:
    """A context manager around a run, which also reports the error that ends it."""

    def __init__(
        self,
        command: str | None,
        *,
        name: str,
        workdir: Path,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """Does nothing when `command` is None; `step` is for the loop to set."""
        self.step = 0
        self._command, self._timeout = command, timeout_seconds
        self._about = {"name": name, "workdir": str(workdir.absolute())}
        self._thread = ThreadPoolExecutor(1, "alert")

    def __enter__(self) -> "Alert":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception):  # neither SIGTERM nor a person at the keyboard
            self.send("stopped", one_line(error))
        self.wait()

    def send(self, event: str, message: str) -> None:
        """Runs the command in the background; at once, or after those before it."""
        assert event in EVENTS, event
        if self._command is not None:
            with contextlib.suppress(RuntimeError):  # Python is ending
                self._thread.submit(self._run, event, message, self.step)

    def hang(self, message: str) -> None:
        """As `send`, before the process is ended, which does not wait for long."""
        self.send("hang", message)
        self.wait()

    def wait(self) -> None:
        """Returns when all of them have ended, each within its time."""
        self._thread.shutdown()

    def _run(self, event: str, message: str, step: int) -> None:
        try:
            if _is_first(event, step):
                self._call(event, message, step)
        except Exception as fault:  # whatever it is, the run is worth more
            _say(f"the alert {event!r} could not be sent ({one_line(fault)})")

    def _call(self, event: str, message: str, step: int) -> None:
        assert self._command is not None
        facts = {"event": event, "message": message, "step": step, **self._about}
        facts["host"] = socket.gethostname()
        named = {f"ESAM_{key.upper()}": str(value) for key, value in facts.items()}
        process = subprocess.Popen(
            shlex.split(self._command),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # ours is for results
            env=os.environ | named,
            start_new_session=True,
        )
        try:
            process.communicate(json.dumps(facts).encode(), self._timeout)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            _say(
                f"the alert {event!r} was killed: {self._command} ran longer than "
                f"{self._timeout:g} s"
            )
            return
        if process.returncode:
            _say(
                f"the alert {event!r} failed: {self._command} ended with {process.returncode}; "
                "the run is not affected"
            )


def _is_first(event: str, step: int) -> bool:
    """Whether no other process of the run has sent this; where nobody can say, it is sent again."""
    service = coordinator.client()
    if service is None:
        return True
    key = event if event in _ONCE else f"{event}/{step}"
    try:
        service.key_value_set(f"{_FOLDER}/{key}", socket.gethostname())
    except jax.errors.JaxRuntimeError as fault:
        return "ALREADY_EXISTS" not in str(fault)
    return True


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        print("esam:", text, file=sys.stderr, flush=True)
