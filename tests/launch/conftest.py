"""A stand-in for `esam`, to see what the launchers make of its exit codes."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"

# Notes every start, then does what plan.py says; it can leave at once, save, wait and be stopped.
_FAKE = """#!{python} -S
import json, os, pathlib, signal, subprocess, sys, time
folder = pathlib.Path({folder!r})
workdir = pathlib.Path(sys.argv[sys.argv.index("--workdir") + 1])
number = int(os.environ.get("JAX_PROCESS_ID", os.environ.get("SLURM_PROCID", 0)))
attempt = len(list(folder.glob(f"start.{{number}}.*")))
names = ("JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_BIND_ADDRESS", "JAX_NUM_PROCESSES",
         "JAX_PROCESS_ID", "JAX_CPU_COLLECTIVES_IMPLEMENTATION", "CUDA_VISIBLE_DEVICES")
seen = [f"{{name}}={{os.environ[name]}}" for name in names if name in os.environ]
def note(kind, text=""):
    path = folder / f"{{kind}}.{{number}}.{{attempt}}"
    path.with_name("." + path.name).write_text(text)
    path.with_name("." + path.name).rename(path)
def terminated(code):
    def leave(*_):
        note("term")
        os._exit(code)
    signal.signal(signal.SIGTERM, leave)
def save(step):
    (workdir / "checkpoints" / str(step)).mkdir(parents=True, exist_ok=True)
def wait():
    time.sleep(60)
    os._exit(99)
def kill(which=signal.SIGKILL):
    os.kill(os.getpid(), which)
def deaf():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
def worker():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    note("worker", str(child.pid))
def peers_started(count):
    while len(list(folder.glob(f"start.*.{{attempt}}"))) < count:
        time.sleep(0.01)
{plan}
terminated(143)
note("environment", json.dumps(dict(os.environ)))
note("start", "\\n".join([str(os.getpid()), *seen, *sys.argv[1:]]))
sys.exit(plan(number, attempt))
"""


class Launcher:
    """A launcher over a fake `esam` that runs `plan(number, attempt)`, and what that noted."""

    def __init__(self, folder, plan="def plan(number, attempt): pass", script="local.sh"):
        self.folder, self.workdir = folder, folder / "run"
        self.command, self.process = [str(LAUNCH / script)], None
        (folder / "bin").mkdir()
        self.tool("esam", _FAKE.format(python=sys.executable, folder=str(folder), plan=plan))

    def tool(self, name, text):
        """Puts a command on its path."""
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def start(self, *arguments, **environment):
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        settings = {"PATH": path, "JAX_PLATFORMS": "cpu", "PAUSE": "0", "GRACE": "20"}
        self.process = subprocess.Popen(
            [*self.command, "toy", str(self.workdir), *arguments],
            env=os.environ | settings | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self

    def finish(self, timeout=60):
        """Its exit code; the pipe closes only when nothing that it started is left."""
        self.printed, self.errors = self.process.communicate(timeout=timeout)
        return self.process.returncode

    def run(self, *arguments, **environment):
        return self.start(*arguments, **environment).finish()

    def notes(self, kind):
        """What was noted under that name: {(process, attempt): text}."""
        found = {}
        for path in self.folder.glob(f"{kind}.*"):
            number, attempt = path.suffixes
            found[int(number[1:]), int(attempt[1:])] = path.read_text()
        return found

    def environments(self):
        """What each start found: {(process, attempt): variables}."""
        return {key: json.loads(text) for key, text in self.notes("environment").items()}

    def wait_for(self, kind, count=1):
        for _ in range(6000):
            if len(self.notes(kind)) >= count:
                return self.notes(kind)
            time.sleep(0.01)
        raise AssertionError(f"{count} notes {kind!r} never came: {self.notes(kind)}")


@pytest.fixture
def launcher(tmp_path):
    made = []

    def make(*arguments, **keywords):
        made.append(Launcher(tmp_path, *arguments, **keywords))
        return made[-1]

    yield make
    for each in made:
        if each.process is not None and each.process.poll() is None:
            each.process.send_signal(signal.SIGTERM)
            each.process.communicate(timeout=60)
