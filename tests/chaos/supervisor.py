"""The processes of one run, as a launcher would keep them: all start together, all end together.

launch/local.sh does the same for users; here faults need to know which process is which, and some
of them happen between the end of one life and the start of the next.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from chaos import hooks
from helpers.processes import free_port

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COMMAND = "import sys; from esam_jax.cli import main; sys.exit(main())"
DONE, TERMINATED, MENDABLE, AGAIN = 0, 143, 2, 75  # exit codes of `esam train`


class Supervisor:
    """One run of `esam train` by several processes, restarted as often as it is asked to.

    `folder` takes journals, logs and requests for faults; `cache` is the compilation cache.
    """

    def __init__(self, folder, workdir, cache, count, keys=(), command=None):
        self.folder, self.workdir, self.cache, self.count = folder, workdir, cache, count
        train = [HERE / "task.py", "--workdir", workdir, *keys]
        self._command = command or [sys.executable, "-c", COMMAND, "train", *map(str, train)]
        self.processes, self.lives = [], 0
        folder.mkdir(parents=True, exist_ok=True)

    def start(self):
        """A new life; the processes' words are appended to `process-N.log`."""
        port, self.lives = free_port(), self.lives + 1
        for number in range(self.count):
            hooks.request(self.folder, hooks.READER, number).unlink(missing_ok=True)
        self.processes = [self._start(number, port) for number in range(self.count)]

    def _start(self, number, port):
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
            hooks.FOLDER: str(self.folder),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
            "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
            # As tests/conftest.py: nearly all the time of a life is compiling or reading programs.
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_COMPILATION_CACHE_DIR": str(self.cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "OMP_NUM_THREADS": "1",
        }
        if self.count > 1:
            environment |= {
                "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
                "JAX_NUM_PROCESSES": str(self.count),
                "JAX_PROCESS_ID": str(number),
            }
        with self.log(number).open("a") as log:
            log.write(f"--- life {self.lives}\n")
            log.flush()
            return subprocess.Popen(
                self._command, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def log(self, number):
        return self.folder / f"process-{number}.log"

    def codes(self):
        """The exit code of each process, None while it runs."""
        return [process.poll() for process in self.processes]

    def signal(self, number, kind):
        """Sends a signal, unless the process has ended."""
        if self.processes[number].poll() is None:
            self.processes[number].send_signal(kind)

    def readers(self, number):
        """The ids of the worker processes that a process has started, in order."""
        return sorted(
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/stat")
            if _parent(path) == self.processes[number].pid
            and b"spawn_main" in _content(path.with_name("cmdline"))  # as Python starts them
        )

    def end(self, patience):
        """Waits so many seconds for all to end by themselves, then kills; who had to be killed.

        Stopped processes cannot end and are not waited for, nor counted; SIGKILL ends them too. The
        group takes whatever they have started.
        """
        deadline = time.monotonic() + patience
        while self._running() and time.monotonic() < deadline:
            time.sleep(0.05)
        killed = self._running()
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return killed

    def _running(self):
        return [
            number
            for number, process in enumerate(self.processes)
            if process.poll() is None and not _is_stopped(process.pid)
        ]

    def step(self):
        """Updates that this life has begun with, and how far it is; (None, 0) before its first."""
        lines = read_journal(hooks.journal(self.folder, 0))
        pid = self.processes[0].pid if self.processes else None
        begun = [i for i, line in enumerate(lines) if line.get("life") == pid]
        if not begun or begun[-1] == len(lines) - 1:
            return None, 0
        return lines[begun[-1]]["step"], lines[-1]["step"]

    def repeated(self, since):
        """Updates that lives had to do again which began after so many lives."""
        last, lives, total = 0, 0, 0
        for line in read_journal(hooks.journal(self.folder, 0)):
            if "life" in line:
                lives += 1
                total += last - line["step"] if lives > since else 0
            last = line["step"]
        return total

    def begun(self):
        """Lives so far that came to train."""
        return sum("life" in line for line in read_journal(hooks.journal(self.folder, 0)))

    def tail(self, lines=15):
        """The last words of every process, for a report."""
        parts = []
        for number in range(self.count):
            if self.log(number).exists():
                words = self.log(number).read_text(errors="replace").splitlines()[-lines:]
                parts += [f"process {number}:", *(f"    {line}" for line in words)]
        return "\n".join(parts)


def _is_stopped(pid):
    return _fields(Path(f"/proc/{pid}/stat"))[0] == "T"


def _parent(stat):
    return int(_fields(stat)[1])


def _fields(stat):
    """State, parent and so on of a process; of one that is gone, none that any has."""
    # The name of the program, in brackets, may hold anything; these follow it.
    return _content(stat).rpartition(b")")[2].decode().split() or ["", "-1"]


def _content(file):
    with contextlib.suppress(OSError):
        return file.read_bytes()
    return b""


def read_journal(file):
    """Every line of a journal; a killed process never leaves half a line, for one write makes it.

    [] where there is none.
    """
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]
