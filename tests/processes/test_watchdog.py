"""A run in which no update finishes shows where every host is, and ends."""

import itertools
import json
import multiprocessing
import os
import signal
import threading
import time
import types

import pytest
from helpers import processes, toy_run

from esam_jax.processes import watchdog
from esam_jax.processes.watchdog import Watchdog
from esam_jax.train.telemetry import log

TICK = 0.1  # seconds without an update that these watchdogs allow


class Result:
    """Stands for a number that the device has or has not computed yet."""

    def __init__(self, ready):
        self.ready = ready

    def is_ready(self):
        return self.ready


@pytest.fixture
def ended():
    """An event that stands for the end of the process; `ended.code` is the exit code."""
    event = threading.Event()

    def leave(code):
        event.code = code
        event.set()

    event.leave = leave
    return event


def watched(dog):
    return dog.watching(lambda batch: ("state", {"loss": Result(True)}), 0)


def test_an_update_that_never_finishes_ends_the_process(tmp_path, ended, capfd):
    results = [Result(True), Result(False)]
    with Watchdog(TICK, tmp_path, leave=ended.leave) as dog:
        step = dog.watching(lambda batch: (batch, {"loss": results.pop(0)}), 4)
        assert step("a batch")[0] == step("a batch")[0] == "a batch"
        assert ended.wait(60)
    assert ended.code == watchdog.EXIT_HANG == 75
    text = (tmp_path / "stacks" / "host_000.txt").read_text()
    assert text.startswith("no update finished in ")
    assert "update 6 begun, 5 finished" in text
    assert "test_an_update_that_never_finishes" in text and "in _watch" in text
    errors = capfd.readouterr().err
    assert "on host 0" in errors and "test_an_update_that_never_finishes" in errors


def wait_for_ever(seconds=100_000):
    time.sleep(seconds)


@pytest.mark.parametrize("answer", ["record 7", "an error", "nothing"])
def test_data_that_never_comes_is_named(tmp_path, ended, monkeypatch, capfd, answer):
    """Whatever the source is asked for its name: it may have broken, or hang itself."""
    monkeypatch.setattr(watchdog, "GRACE_SECONDS", TICK)
    never = threading.Event()

    def batches():
        yield "a batch"
        never.wait(60)
        yield "another"

    def awaited():
        if answer == "nothing":
            never.wait(60)
        return {"record 7": answer}[answer]

    with Watchdog(TICK, tmp_path, leave=ended.leave) as dog:
        step, read = watched(dog), dog.reading(batches(), awaited)
        step(next(read))
        waiting = threading.Thread(target=next, args=(read,), daemon=True)
        waiting.start()
        assert ended.wait(60) and ended.code == 75
    never.set()
    where = "record 7" if answer == "record 7" else "data"
    assert f"(update 1 begun, 1 finished, waiting for {where})" in capfd.readouterr().err
    assert f", waiting for {where}\n" in (tmp_path / "stacks" / "host_000.txt").read_text()


def test_an_update_that_hangs_is_not_said_to_wait_for_data(tmp_path, ended, capfd):
    results = [Result(True), Result(False)]
    with Watchdog(TICK, tmp_path, leave=ended.leave) as dog:
        step = dog.watching(lambda batch: ("state", {"loss": results.pop(0)}), 0)
        read = dog.reading(itertools.repeat("a batch"), lambda: "record 7")
        step(next(read))
        step(next(read))
        assert ended.wait(60)
    assert "(update 2 begun, 1 finished)" in capfd.readouterr().err


def test_time_in_which_the_process_does_not_run_does_not_count(tmp_path, ended, monkeypatch):
    asleep = [0.0]
    clock = types.SimpleNamespace(monotonic=lambda: time.monotonic() + asleep[0])
    monkeypatch.setattr(watchdog, "time", clock)
    with Watchdog(10.0, tmp_path, slow_seconds=0.0, leave=ended.leave):
        asleep[0] = 1000.0
        assert not ended.wait(2.5)  # it looks once a second


def test_processes_that_were_started_do_not_survive_a_hang(tmp_path, ended):
    child = multiprocessing.get_context("spawn").Process(target=wait_for_ever)
    child.start()
    os.kill(child.pid, signal.SIGSTOP)  # it cannot follow the run by itself
    with Watchdog(TICK, tmp_path, slow_seconds=TICK, leave=ended.leave):
        assert ended.wait(60)
    child.join(60)
    assert child.exitcode == -signal.SIGKILL


def test_a_slow_phase_and_the_first_update_have_more_time(tmp_path, ended):
    with Watchdog(TICK, tmp_path, slow_seconds=600.0, leave=ended.leave) as dog:
        assert not ended.wait(10 * TICK)  # compiling
        watched(dog)("a batch")
        with dog.slow("an evaluation"):
            assert not ended.wait(10 * TICK)
        assert ended.wait(60)
    with Watchdog(TICK, tmp_path, slow_seconds=TICK, leave=ended.leave):
        ended.clear()
        assert ended.wait(60)  # but not for ever


def test_a_slow_phase_has_its_own_time(tmp_path, ended, capfd):
    with Watchdog(TICK, tmp_path, slow_seconds=600.0, leave=ended.leave) as dog:
        watched(dog)("a batch")
        with dog.slow("a save", TICK):
            assert ended.wait(60)  # an hour is for those that need it
    err = capfd.readouterr().err
    assert "in a save" in err and "raise --guard.hang-seconds" in err


def test_a_hang_is_told_to_the_hook_before_the_end(tmp_path, ended):
    told = []
    with Watchdog(TICK, tmp_path, slow_seconds=TICK, leave=ended.leave, alert=told.append):
        assert ended.wait(60)
    (message,) = told
    assert message.startswith("no update finished in") and "host_000.txt" in message


def test_a_disk_that_hangs_too_is_not_waited_for(tmp_path, ended, monkeypatch, capfd):
    (tmp_path / "stacks").mkdir()
    os.mkfifo(tmp_path / "stacks" / "host_000.txt")  # opening it never returns
    monkeypatch.setattr(watchdog, "GRACE_SECONDS", TICK)
    with Watchdog(TICK, tmp_path, slow_seconds=TICK, leave=ended.leave):
        assert ended.wait(60)
    assert ended.code == 75
    assert "test_a_disk_that_hangs_too" in capfd.readouterr().err


def test_a_slow_phase_ends_when_another_host_waits(tmp_path, ended, monkeypatch):
    """An evaluation may take an hour, but not while another host has begun the next update."""
    waits = threading.Event()
    monkeypatch.setattr(Watchdog, "_others_hang", lambda dog: waits.is_set())
    with Watchdog(TICK, tmp_path, slow_seconds=600.0, leave=ended.leave) as dog:
        watched(dog)("a batch")
        with dog.slow("an evaluation"):
            assert not ended.wait(10 * TICK)
            waits.set()
            assert ended.wait(60)
    assert "in an evaluation" in (tmp_path / "stacks" / "host_000.txt").read_text()


def test_a_store_that_does_not_answer_is_not_waited_for(tmp_path, monkeypatch):
    asked, never = threading.Event(), threading.Event()
    answers = {"hang": [], "told": [("esam_jax/hang/1", "7 update 7 begun")]}

    class Store:
        def __init__(self, says):
            self.says = says

        def key_value_dir_get(self, folder):
            asked.set()
            if self.says not in answers:
                never.wait(60)
            return answers.get(self.says, [])

    monkeypatch.setattr(watchdog, "GRACE_SECONDS", TICK)
    for says, hangs in (("hang", False), ("told", True), ("nothing", False)):
        monkeypatch.setattr(watchdog.coordinator, "client", lambda says=says: Store(says))
        asked.clear()
        assert Watchdog(TICK, tmp_path)._others_hang() == hangs and asked.wait(60)
    never.set()


def test_time_in_which_the_store_does_not_answer_counts(tmp_path, ended, monkeypatch):
    """An answer takes as long here as the slow phase has in all: it is asked once."""
    asked = []

    def slow(dog):
        asked.append(dog)
        time.sleep(20 * TICK)
        return False

    monkeypatch.setattr(Watchdog, "_others_hang", slow)
    with Watchdog(TICK, tmp_path, slow_seconds=20 * TICK, leave=ended.leave):
        assert ended.wait(60)
    assert len(asked) == 1


def test_updates_that_finish_keep_it_quiet(tmp_path, ended):
    with Watchdog(10.0, tmp_path, slow_seconds=0.0, leave=ended.leave) as dog:
        step = watched(dog)
        for _ in range(5):
            step("a batch")
            time.sleep(0.01)
    assert not ended.is_set() and not dog._thread.is_alive()
    assert not (tmp_path / "stacks").exists()


def test_none_watches_nothing(tmp_path):
    with Watchdog(None, tmp_path) as dog:
        assert watched(dog)("a batch")[0] == "state"
    assert not dog._thread.is_alive() and not dog._waiting


def test_hosts_that_are_behind_are_named():
    told = {0: (8, "update 8 begun, 7 finished"), 2: (7, "update 7 begun, 7 finished")}
    assert watchdog.behind(told, 3) == [
        "host 1 is silent: it is stopped, dead or cut off",
        "host 2 is behind (update 7 begun, 7 finished; others have begun 8)",
    ]
    assert watchdog.behind({0: (8, ""), 1: (8, "")}, 2) == ["all 2 hosts are in the same update"]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts two processes of a toy run; they compile once for both tests."""
    environment = processes.keeping(tmp_path_factory.mktemp("cache"))

    def start(**wishes):
        wishes = {"hang_seconds": 8, "peers": {"heartbeat_seconds": 100}} | wishes
        command = [toy_run.__file__, json.dumps(wishes)]
        return processes.start(command, 2, environment=environment)

    return start


@pytest.mark.slow
def test_f15_a_host_that_sleeps(start, tmp_path):
    started = start(workdir=str(tmp_path), sleep={"host": 1, "step": 3})
    outputs = processes.finish(started, codes=[75, 75], timeout=180)
    for number, (_, errors) in enumerate(outputs):
        assert f"on host {number}" in errors
        about = "update 3 begun, 3 finished, waiting for batch 3 of the toy; others have begun 4"
        assert f"esam: host 1 is behind ({about})" in errors
    # What the sleeper does can be read.
    text = (tmp_path / "stacks" / "host_001.txt").read_text()
    assert "toy_run.py" in text and "in __next__" in text
    assert "in __next__" not in (tmp_path / "stacks" / "host_000.txt").read_text()


@pytest.mark.slow
def test_f15_a_host_that_is_stopped(start, tmp_path):
    started = start(workdir=str(tmp_path), steps=1000, save=1000, pause=0.05)
    try:
        deadline = time.monotonic() + 300
        while len(log.read(tmp_path / "metrics.jsonl")) < 5:
            assert started[0].poll() is None, started[0].communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        started[1].send_signal(signal.SIGSTOP)
        _, errors = started[0].communicate(timeout=120)
    finally:
        for each in started:
            each.kill()
            each.communicate()
    assert started[0].returncode == 75, errors
    assert "host 1 is silent: it is stopped, dead or cut off" in errors
    assert (tmp_path / "stacks" / "host_000.txt").exists()
