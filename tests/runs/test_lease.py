"""F14: one job at a time in a run folder, and none locked out by one that is dead."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from helpers import toy

from esam_jax.errors import CheckpointError
from esam_jax.runs import lease
from esam_jax.runs.lease import Lease
from esam_jax.train.checkpoint.manager import Checkpoints

HOLD = """
import pathlib, sys
from esam_jax.runs.lease import Lease
Lease(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(lease, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 0.5)


def test_f14_second_job_is_refused_and_a_killed_one_is_not_in_the_way(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(lease.__file__).parents[2])},
        text=True,
    )
    with process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(
            CheckpointError, match=rf"in use by process {process.pid} on .*began about 0 s ago"
        ):
            Checkpoints(toy.config(), tmp_path)
        process.kill()
        # Whether or not the kernel and the parent have come to look after it yet.
        with Checkpoints(toy.config(), tmp_path):
            assert (tmp_path / "lease.json").exists()
    assert not (tmp_path / "lease.json").exists()


def test_f14_a_killed_process_that_is_still_seen_is_waited_for(tmp_path, monkeypatch):
    first = Lease(tmp_path)
    looks = iter([first._owner["started"]] * 3)
    started = lease._started
    monkeypatch.setattr(lease, "_started", lambda pid: next(looks, None))
    second = Lease(tmp_path)
    assert json.loads((tmp_path / "lease.json").read_text())["job"] == second._owner["job"]
    monkeypatch.setattr(lease, "_started", started)
    for held in (first, second):
        held.release()


def test_f14_the_same_process_may_not_open_a_folder_twice(tmp_path):
    with (
        Checkpoints(toy.config(), tmp_path),
        pytest.raises(CheckpointError, match="in use by process"),
    ):
        Checkpoints(toy.config(), tmp_path)
    Checkpoints(toy.config(), tmp_path).__exit__(None, None, None)


def test_f14_number_of_a_dead_process_given_to_another(tmp_path):
    held = Lease(tmp_path)
    file = tmp_path / "lease.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"started": "0", "job": "x"}))
    Lease(tmp_path).release()
    held.release()


def test_f14_a_silent_job_of_another_machine_is_dead(tmp_path, quick):
    Lease(tmp_path).release()
    (tmp_path / "lease.json").write_text(json.dumps({"machine": "another", "job": "x", "beat": 7}))
    Lease(tmp_path).release()
    (tmp_path / "lease.json").write_text("")  # what a crash of a machine may leave
    Lease(tmp_path).release()


def test_f14_a_beating_job_of_another_machine_is_alive(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 60)  # a change ends the wait, not the time
    monkeypatch.setattr(lease, "_machine", lambda: "another")
    held = Lease(tmp_path)
    monkeypatch.setattr(lease, "_machine", lambda: "here")
    with pytest.raises(CheckpointError, match="is in use by process"):
        Lease(tmp_path)
    held.check()
    held.release()


def test_f14_a_job_that_lost_its_folder_stops(tmp_path, quick):
    held = Lease(tmp_path)
    fresh = tmp_path / "fresh"
    fresh.write_text(json.dumps({"job": "x", "host": "far", "pid": 7, "beat": 0}))
    fresh.replace(tmp_path / "lease.json")
    held._thread.join(60)
    with pytest.raises(CheckpointError, match=r"taken over by another job .process 7 on far"):
        held.check()
    held.release()
    assert json.loads((tmp_path / "lease.json").read_text())["job"] == "x"  # not ours to delete


def test_f14_beats_need_no_room_on_the_disk(tmp_path, quick):
    held = Lease(tmp_path)
    size = (tmp_path / "lease.json").stat().st_size
    for _ in range(2000):
        if json.loads((tmp_path / "lease.json").read_text())["beat"] >= 12:
            break
        held._thread.join(0.02)
    found = json.loads((tmp_path / "lease.json").read_text())
    assert found["beat"] >= 12 and (tmp_path / "lease.json").stat().st_size == size
    held.release()
