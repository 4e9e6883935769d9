"""Fault checks: runs of `esam train` on this card, one of them killed, two at once, two as one.

All are the same small run: SAMI of the shipped nano models on drawn scenes, with every sum exact.
Nothing here touches the device before the last check, so that the runs have its memory.
"""

import contextlib
import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from esam_jax.card import driver
from esam_jax.card.setting import MAY_STOP, Row, Setting
from esam_jax.errors import TrainingError
from esam_jax.machine import compile_cache
from esam_jax.runs import metrics_file

_ESAM = "import sys; from esam_jax.cli import main; sys.exit(main())"
_CONFIG, _BATCH, _PARTS = "quickstart_sami", 8, 4  # a save after each quarter of the updates
_SECONDS = 600  # that a run may take: it compiles, on a card with all its tuning
_POLL_SECONDS = 0.01
_NUMBERS = ("loss", "grad_norm", "param_norm")
_LIMIT = 1e-4  # relative, of two processes: sums in another order, over some dozens of updates
_METRICS, _CHECKPOINTS, _MODEL = "metrics.jsonl", "checkpoints", "model/model.safetensors"
_ALARM = "copies that must be equal differ"
_ONE_PROCESS_A_CARD = re.compile(r"duplicate gpu|nccl", re.IGNORECASE)
_TWO = {driver.MEMORY_FRACTION: "0.3"}  # of the memory for each of two processes


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One process that has ended; `code` is None where it had to be ended after its time."""

    code: int | None
    words: str


def measure(setting: Setting) -> Iterator[Row]:
    """A row for each check. TrainingError where not even the undisturbed run comes to its end."""
    with tempfile.TemporaryDirectory(prefix="esam_card_") as folder:
        runs = Runs(Path(folder), setting.fault_steps)
        heard = []
        begin = time.monotonic()
        (calm,) = runs.finish("undisturbed", 1)
        heard.append(calm)
        if calm.code != 0:
            raise TrainingError(f"the undisturbed run ended with {calm.code}: {calm.words}")
        yield _row("undisturbed", f"{setting.fault_steps} updates", begin, holds=True)

        yield MAY_STOP
        begin = time.monotonic()
        killed = runs.kill("killed")
        resumed = runs.finish("killed", 1)
        heard += resumed
        yield _compared("killed and resumed", begin, runs, ["killed"], resumed, killed)

        yield MAY_STOP
        begin = time.monotonic()
        with runs.starting("first", 1, _TWO) as first, runs.starting("second", 1, _TWO) as second:
            both = [*runs.end("first", first), *runs.end("second", second)]
        heard += both
        yield _compared("two runs at once", begin, runs, ["first", "second"], both, "")

        yield MAY_STOP
        begin = time.monotonic()
        joined = runs.finish("joined", 2)
        heard += joined
        yield _joined(begin, runs, joined)
        yield _alarms(heard)
    yield _sums()


class Runs:
    """Runs of one config below a folder; programs that one compiles the others find there."""

    def __init__(self, folder: Path, steps: int, command: Sequence[str] | None = None) -> None:
        """`command` stands for `esam train CONFIG` in tests."""
        self.folder, self.steps = folder, steps
        self._command = command or [sys.executable, "-c", _ESAM, "train", _CONFIG]

    @contextlib.contextmanager
    def starting(
        self, name: str, processes: int, more: Mapping[str, str] | None = None
    ) -> Iterator[list[subprocess.Popen[bytes]]]:
        """The processes of a run, which do not outlive the block."""
        port = _free_port()
        environment = {
            **os.environ,
            "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
            compile_cache.SWITCH: str(self.folder / "compiled"),
            **(more or (_TWO if processes > 1 else {})),
        }
        started = []
        try:
            for number in range(processes):
                peers = [
                    "--peers.coordinator", f"localhost:{port}",
                    "--peers.processes", str(processes), "--peers.process", str(number),
                ] if processes > 1 else []  # fmt: skip
                argv = [*self._command, *self._options(name), *peers]
                with self._words(name, number).open("ab") as words:
                    started.append(
                        subprocess.Popen(argv, env=environment, stdout=words, stderr=words)
                    )
            yield started
        finally:
            for process in started:
                process.kill()
                process.wait()

    def finish(self, name: str, processes: int) -> list[Outcome]:
        """Runs until all processes have ended, or their time is over."""
        with self.starting(name, processes) as started:
            return self.end(name, started)

    def end(self, name: str, started: list[subprocess.Popen[bytes]]) -> list[Outcome]:
        """What became of the processes, all of which together have a run's time."""
        deadline, found = time.monotonic() + _SECONDS, []
        for number, process in enumerate(started):
            try:
                code = process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                code = None
            found.append(Outcome(code, self.words(name, number)))
        return found

    def kill(self, name: str) -> str:
        """Ends a run with SIGKILL once it has saved; where that was. TrainingError if it cannot."""
        deadline = time.monotonic() + _SECONDS
        with self.starting(name, 1) as (process,):
            while time.monotonic() < deadline and process.poll() is None:
                saved = self.saved(name)
                if saved and self.done(name) > saved:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    return f"killed after update {self.done(name)}, with update {saved} saved; "
                time.sleep(_POLL_SECONDS)
        raise TrainingError(
            f"the run that was to be killed was not caught between a save and its end (exit code "
            f"{process.returncode}): {self.words(name, 0)}"
        )

    def saved(self, name: str) -> int:
        """The newest committed step, 0 for none."""
        # A save becomes visible under its own name when it is complete.
        folder = self.folder / name / _CHECKPOINTS
        return max((int(x.name) for x in folder.glob("*") if x.name.isdecimal()), default=0)

    def done(self, name: str) -> int:
        """The last update in the log."""
        return max(self.numbers(name), default=0)

    def numbers(self, name: str) -> dict[int, tuple[float, ...]]:
        """Update -> its numbers; of one that was done again, the last."""
        lines = metrics_file.read(self.folder / name / _METRICS)
        return {
            line["step"]: tuple(line[key] for key in _NUMBERS) for line in lines if "loss" in line
        }

    def model(self, name: str) -> bytes | None:
        """The weights that the run left."""
        file = self.folder / name / _MODEL
        return file.read_bytes() if file.is_file() else None

    def words(self, name: str, number: int) -> str:
        """What a process printed last."""
        lines = self._words(name, number).read_text(errors="replace").splitlines()
        return " | ".join(line.strip() for line in lines[-3:] if line.strip())[-600:]

    def _words(self, name: str, number: int) -> Path:
        return self.folder / f"{name}-{number}.txt"

    def _options(self, name: str) -> list[str]:
        every = str(max(1, self.steps // _PARTS))
        return [
            "--workdir", str(self.folder / name), "--steps", str(self.steps),
            "--batch", str(_BATCH), "--optim.warmup-steps", "2", "--save.every-steps", every,
            "--log-every-steps", "1", "--guard.checksum-every-steps", "2",
            "--data.source.scenes", "64", "--compute.precision", "highest",
            # Else sums by atomics differ from call to call, and no run is equal to another.
            "--compute.deterministic",
        ]  # fmt: skip


def difference(runs: Runs, name: str) -> tuple[bool, float | None]:
    """Whether a run has the bits of the undisturbed one, and the largest relative difference.

    None where updates are missing.
    """
    ours, theirs = runs.numbers(name), runs.numbers("undisturbed")
    if ours.keys() != theirs.keys() or not ours:
        return False, None
    equal = ours == theirs and runs.model(name) == runs.model("undisturbed")
    pairs = [pair for step in ours for pair in zip(ours[step], theirs[step], strict=True)]
    return equal, max(abs(a - b) / max(abs(b), 1e-30) for a, b in pairs)


def _compared(
    check: str, begin: float, runs: Runs, names: list[str], ended: list[Outcome], before: str
) -> Row:
    """Runs that must be equal to the undisturbed one, bit for bit."""
    found = [difference(runs, name) for name in names]
    equal = all(same for same, _ in found) and all(each.code == 0 for each in ended)
    largest = (
        None if any(x is None for _, x in found) else max(x for _, x in found if x is not None)
    )
    outcome = f"{before}the same bits" if equal else f"{before}{_codes(ended)}, other numbers"
    return _row(check, outcome, begin, holds=equal, difference=largest)


def _joined(begin: float, runs: Runs, ended: list[Outcome]) -> Row:
    """One run of two processes. NCCL takes one process a card, and says so: that is no fault."""
    check = "two processes as one run"
    if all(each.code == 0 for each in ended):
        _, largest = difference(runs, "joined")
        same = largest is not None and largest <= _LIMIT
        return _row(check, "the same numbers" if same else "other numbers", begin, same, largest)
    ended_alone = all(each.code is not None for each in ended)
    said = next((each.words for each in ended if _ONE_PROCESS_A_CARD.search(each.words)), None)
    if ended_alone and said is not None:
        return _row(check, f"refused, as NCCL takes one process a card: {said}", begin, None)
    words = "; ".join(each.words for each in ended)
    return _row(check, f"{_codes(ended)}: {words}", begin, False)


def _alarms(ended: list[Outcome]) -> Row:
    """Copies were compared after every second update of every run."""
    false = [each.words for each in ended if _ALARM in each.words]
    outcome = "; ".join(false) or "none in any run"
    return _row("alarms of replica checksums", outcome, time.monotonic(), not false)


def _sums() -> Row:
    """Sums of the same arrays by the device and by the host."""
    import jax  # no sooner: the runs before need the device's memory
    import jax.numpy as jnp

    from esam_jax.train.checkpoint import checksums

    begin, rng = time.monotonic(), np.random.default_rng(0)
    host = {
        "float32": rng.standard_normal((257, 129), np.float32),
        "bfloat16": rng.standard_normal((65, 1031), np.float32).astype(jnp.bfloat16),
        "int32": rng.integers(-(2**31), 2**31, (3, 5, 7), np.int32),
        "bool": rng.integers(0, 2, 1001).astype(bool),
    }
    tree = jax.device_put(host)
    same = all(checksums.on_devices(tree) == checksums.on_host(host) for _ in range(10))
    outcome = "equal, ten times" if same else "different"
    return _row("checksums by device and host", outcome, begin, same)


def _codes(ended: list[Outcome]) -> str:
    codes = ["ended after its time" if each.code is None else str(each.code) for each in ended]
    return f"exit codes {', '.join(codes)}"


def _row(
    check: str,
    outcome: str,
    begin: float,
    holds: bool | None,
    difference: float | None = None,
) -> Row:
    return {
        "table": "faults",
        "check": check,
        "outcome": outcome,
        "largest_difference": difference,
        "seconds": time.monotonic() - begin,
        "holds": holds,
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]
