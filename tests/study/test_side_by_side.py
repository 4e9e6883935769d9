"""Trials in several processes: their order, errors, and what a kill leaves."""

import concurrent.futures
import dataclasses
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from esam_jax.errors import ConfigError
from esam_jax.study import side_by_side, trials
from esam_jax.study.design import PRESETS, Design, Trial, needs, reference


def in_threads(monkeypatch, work, design: Design, most: int):
    monkeypatch.setattr(side_by_side, "_run", work)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        waiting = list(design.trials())
        yield from side_by_side._in_order(pool, waiting, design, Path("none"), most)


@pytest.mark.parametrize("most", [1, 3])
def test_nothing_begins_before_what_it_needs_and_no_more_at_once(monkeypatch, most: int):
    design = dataclasses.replace(PRESETS["full"], seeds=(0,))
    running, finished, high, lock = set(), set(), [], threading.Lock()

    def work(trial, design, workdir):
        with lock:
            assert {*needs(trial)} <= finished
            running.add(trial)
            high.append(len(running))
        time.sleep(0.001)
        with lock:
            running.remove(trial)
            finished.add(trial)
        return {}, 0.0

    done = [trial for trial, *_ in in_threads(monkeypatch, work, design, most)]
    assert sorted(map(str, done)) == sorted(map(str, design.trials()))
    assert max(high) == most


def test_an_error_of_a_trial_is_raised(monkeypatch):
    def work(trial, design, workdir):
        raise ConfigError("no such thing")

    with pytest.raises(ConfigError, match="no such thing"):
        list(in_threads(monkeypatch, work, PRESETS["first"], 2))


def test_no_processes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="processes is 0"):
        next(side_by_side.over([reference(0)], PRESETS["first"], tmp_path, 0))


SCRIPT = """
import sys
from pathlib import Path
from esam_jax.study import side_by_side
from esam_jax.study.design import Design, reference
if __name__ == "__main__":
    design = Design(images=1)
    waiting = [reference(seed) for seed in range(40)]
    for trial, found, _ in side_by_side.over(waiting, design, Path(sys.argv[1]), 1):
        print(trial.seed, flush=True)
"""


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in tasks.read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
def test_a_killed_study_leaves_no_process_and_complete_trials(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as study:
        assert study.stdout is not None and study.stdout.readline() == "0\n"
        workers = children(study.pid)
        study.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "a worker has outlived the study"
        time.sleep(0.1)
    done = [Trial(seed, "teacher", "reference") for seed in range(40)]
    found = [trials.finished(each, tmp_path) for each in done]
    assert found[0] is not None and found[-1] is None  # as far as it had come
    for each, kept in zip(done, found, strict=True):
        if kept is not None:  # by a process of one thread, as this one finds it
            assert kept["box_miou"] > 0.3
            file = tmp_path / each.folder / trials.MEASURED_FILE
            assert json.loads(file.read_text()) == kept


ENDLESS = """
import signal
import sys
import time
from pathlib import Path
from esam_jax.study import side_by_side
from esam_jax.study.design import Design, reference

def endless(trial, design, workdir):
    (workdir / "began").touch()
    time.sleep(600)

side_by_side._run = endless  # here and, as this is read there again, in the worker
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    list(side_by_side.over([reference(0)], Design(), Path(sys.argv[1]), 1))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
def test_an_interrupted_study_does_not_wait_for_its_trials(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ENDLESS)
    command = [sys.executable, str(script), str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as study:
        try:
            deadline = time.monotonic() + 300
            while not (tmp_path / "began").exists():
                assert study.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
            workers = children(study.pid)
            study.send_signal(signal.SIGINT)
            _, said = study.communicate(timeout=60)
        finally:
            study.kill()
    assert "KeyboardInterrupt" in said and study.returncode != 0
    deadline = time.monotonic() + 30
    while any(map(runs, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def runs(pid: int) -> bool:
    """Whether a process is there, and no zombie that nobody has waited for."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
