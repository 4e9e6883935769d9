"""Hosts meet or say why not, agree before they start, and stop at one step.

Runs of several real processes train the toy task in the real loop (tests/helpers/toy_run.py).
"""

import errno
import json
import pathlib
import re
import signal
import threading
import time

import jax
import numpy as np
import pytest
from helpers import processes, toy, toy_run

from esam_jax import sharding
from esam_jax.config import PeersConfig
from esam_jax.errors import ConfigError, DiskError, PeerError
from esam_jax.processes import join
from esam_jax.train.checkpoint import manager
from esam_jax.train.telemetry import log

STEPS = 300  # of a run that a signal must hit; JAX takes seconds to tell all hosts of one
PAUSE = 0.1  # before each update of such a run


def test_other_devices_than_expected_are_refused():
    with join.joined(PeersConfig(devices=jax.device_count()), {}):
        pass
    with (
        pytest.raises(ConfigError, match=r"should be 5 devices, but JAX sees 8 cpu devices in 1 "),
        join.joined(PeersConfig(devices=5), {}),
    ):
        raise AssertionError("must not start")


GPUS = {"CUDA_VISIBLE_DEVICES": "0,1"}


@pytest.mark.parametrize("given", [GPUS, {"SLURM_GPUS_ON_NODE": "2", "JAX_PLATFORMS": "cuda"}])
def test_a_cpu_in_place_of_gpus_is_refused(given):
    with (
        pytest.raises(ConfigError, match=r"given GPUs \(2\), but JAX has only the CPU: install"),
        join.joined(PeersConfig(), given),
    ):
        raise AssertionError("must not start")


@pytest.mark.parametrize(
    "environment", [{"CUDA_VISIBLE_DEVICES": "-1"}, {}, GPUS | {"JAX_PLATFORMS": "cpu"}]
)
def test_a_cpu_that_was_meant_is_taken(environment):
    with join.joined(PeersConfig(), environment):
        pass


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        (["8 a", "8 b"], "process: repair"),
        (["8 a", "7 b", "8 c"], r"process \(7 on b, 8 on each of the others\): repair"),
        (
            ["8 a", *(f"4 b{number}" for number in range(10))],
            r"4 on b0, .*4 on b7 and 2 other hosts, 8 on each of the others\)",
        ),
    ],
)
def test_the_host_that_lacks_devices_is_named(seen, text, monkeypatch):
    monkeypatch.setattr(join.coordinator, "gather", lambda where, here: seen)
    with pytest.raises(ConfigError, match=text), join.joined(PeersConfig(devices=5), {}):
        raise AssertionError("must not start")


def test_a_process_that_believes_it_is_alone_is_refused(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **kwargs: None)
    with (
        pytest.raises(ConfigError, match="should be 2 processes, but JAX sees 1: start each"),
        join.joined(PeersConfig(), {"SLURM_STEP_NUM_TASKS": "2"}),
    ):
        raise AssertionError("must not start")


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        (ValueError("coordinator_address should be defined."), ConfigError, 2),
        (jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: nobody came"), PeerError, 75),
        (RuntimeError("Failed to resolve the coordinator"), PeerError, 75),  # of a TPU slice
    ],
)
def test_what_jax_cannot_find_out_must_be_given(fault, kind, code, monkeypatch):
    """Open MPI's own variables are there, but none of those in which JAX finds the coordinator."""

    def initialize(coordinator, *, num_processes, process_id, **options):
        assert (coordinator, num_processes, process_id) == (None, 2, 1)
        assert options["heartbeat_timeout_seconds"] == 30
        raise fault

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    environment = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
    with (
        pytest.raises(kind, match=rf"{fault} *\): give --peers\.coord") as caught,
        join.joined(PeersConfig(), environment),
    ):
        raise AssertionError("must not start")
    assert caught.value.exit_code == code


def test_peers_whose_names_do_not_come(monkeypatch):
    """JAX waits for the name of a TPU slice's first host before it knows any address."""
    never = threading.Event()
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: never.wait(60))
    peers = PeersConfig(join_seconds=1, processes=2)
    with (
        pytest.raises(PeerError, match=r"nothing is known of the other processes after 1 s"),
        join.joined(peers, {}),
    ):
        raise AssertionError("must not start")
    never.set()


def test_f18_a_coordinator_that_cannot_be_reached(tmp_path):
    """Neither side waits for ever, JAX aborts nothing, and each says what it knows."""
    script = "import sys; from esam_jax.cli import main; sys.exit(main())"
    port, alone = processes.free_port(), processes.free_port()
    command = ["-c", script, "train", "segment_ti", "--workdir", str(tmp_path / "run")]
    command += ["--peers.processes", "2", "--peers.join-seconds", "2"]
    (worker,) = processes.start(
        [*command, "--peers.coordinator", f"localhost:{port}", "--peers.process", "1"], 1
    )
    (first,) = processes.start(
        [*command, "--peers.coordinator", f"localhost:{alone}", "--peers.process", "0"], 1
    )
    outputs = processes.finish([worker, first], codes=[75, 75], timeout=120)
    assert (
        f"esam: process 1 of 2 waited 2 s, but the coordinator localhost:{port} cannot be reached: "
        "check that process 0 runs there" in outputs[0][1]
    )
    assert (
        f"esam: process 0 of 2 waited 2 s at localhost:{alone}, but not all others came"
        in outputs[1][1]
    )
    assert not (tmp_path / "run").exists()


def run(count, cache, **wishes):
    """Running processes of one toy run; they compile once for all tests."""
    environment = processes.keeping(cache)
    wishes = {"steps": STEPS, "save": 1000, "peers": {"heartbeat_seconds": 10}} | wishes
    return processes.start([toy_run.__file__, json.dumps(wishes)], count, environment=environment)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    """The folder and outputs of a run of two processes that was left alone."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, processes.finish(run(2, cache, workdir=str(folder)))


def saved(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").glob("*[0-9]"))


def parameters(folder):
    """Every number of the last checkpoint, read by one process."""
    cfg = toy.config(steps=STEPS)
    template = toy.abstract(toy.task(), cfg, sharding.make_mesh(cfg.mesh))
    return jax.tree.leaves(jax.device_get(manager.load(folder, STEPS, template)))


def assert_same_end(a, b):
    ours, theirs = parameters(a), parameters(b)
    assert len(ours) == len(theirs) > 10
    for mine, other in zip(ours, theirs):
        np.testing.assert_array_equal(mine, other)


def steps_done(folder):
    return max((line["step"] for line in log.read(folder / "metrics.jsonl")), default=0)


def wait_for_step(folder, step, started):
    deadline = time.monotonic() + 300
    while steps_done(folder) < step:
        for each in started:
            assert each.poll() is None, each.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_process_0_alone_writes(whole):
    folder, ((out, errors), (other_out, other_errors)) = whole
    ours, theirs = (json.loads(text.splitlines()[-1]) for text in (out, other_out))
    names = " ".join(pathlib.Path(path).name for path in ours)
    assert all(name in names for name in ("metrics.jsonl", "config.json", "loss")), names
    # The other one opens only what makes its own part of a checkpoint, and a probe.
    inside = [path for path in theirs if str(folder) in path]
    assert inside and all("/checkpoints/" in path for path in inside), inside
    assert f"finished at step {STEPS} " in errors and "step" not in other_errors
    steps = [line["step"] for line in log.read(folder / "metrics.jsonl") if "loss" in line]
    assert steps == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_f01_sigterm_on_any_host_saves_one_agreed_step(whole, cache, tmp_path):
    started = run(2, cache, workdir=str(tmp_path), pause=PAUSE)
    wait_for_step(tmp_path, 5, started)
    started[1].send_signal(signal.SIGTERM)  # a notice to one host only
    processes.finish(started, codes=[143, 143], timeout=120)
    first = max(saved(tmp_path))
    assert 5 <= first < STEPS and first == steps_done(tmp_path)  # no update done is lost

    started = run(2, cache, workdir=str(tmp_path), pause=PAUSE)
    wait_for_step(tmp_path, first + 2, started)
    for each in started:
        each.send_signal(signal.SIGTERM)
    processes.finish(started, codes=[143, 143], timeout=120)
    second = max(saved(tmp_path))
    assert first < second < STEPS and second == steps_done(tmp_path)

    # A notice that comes before the first update of a resumed run.
    warned = run(2, cache, workdir=str(tmp_path), pause=PAUSE, warned=1)
    processes.finish(warned, codes=[143, 143], timeout=120)
    third = max(saved(tmp_path))
    assert second < third < STEPS and third == steps_done(tmp_path)

    processes.finish(run(2, cache, workdir=str(tmp_path)))
    assert_same_end(whole[0], tmp_path)


@pytest.mark.slow
def test_f02_a_lost_host_ends_the_others_and_the_run_resumes(whole, cache, tmp_path):
    started = run(2, cache, workdir=str(tmp_path), pause=PAUSE, save=20)
    wait_for_step(tmp_path, 22, started)
    started[1].kill()
    started[1].communicate()
    # Within the heartbeat of 10 s and what a slow machine takes; without it JAX waits for 100 s.
    _, errors = started[0].communicate(timeout=90)
    assert started[0].returncode not in (0, 2), errors
    processes.finish(run(2, cache, workdir=str(tmp_path)))
    assert_same_end(whole[0], tmp_path)


@pytest.mark.slow
def test_f16_a_host_with_another_config_is_named_by_all(cache, tmp_path):
    other = {"host": 1, "rate": 0.5}
    outputs = processes.finish(run(3, cache, workdir=str(tmp_path), lr=other), codes=[2, 2, 2])
    for _, errors in outputs:
        assert "esam: host 1 (" in errors and ") differs from host 0 in " in errors
        assert "config.optim.peak_lr: 0.5, not 0.01" in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_f16_a_host_with_another_program_is_named_by_all(cache, tmp_path):
    outputs = processes.finish(run(2, cache, workdir=str(tmp_path), constant=1), codes=[2, 2])
    for _, errors in outputs:
        assert "esam: host 1 (" in errors and ") differs from host 0 in program: " in errors
    assert saved(tmp_path) == []


def compiled(folder):
    """What the cache did for the training step of a run's first start."""
    lines = log.read(folder / log.METRICS_FILE)
    return [line["cache"] for line in lines if line.get("event") == "compile"]


@pytest.mark.slow
def test_a_cache_that_the_user_names_is_used(whole):
    assert compiled(whole[0])[0] in ("miss", "hit")


@pytest.mark.slow
def test_several_processes_keep_no_programs_unless_the_user_names_a_folder(tmp_path):
    """On GPUs a host that finds its program leaves those that do not waiting for its timings."""
    default = tmp_path / "default"
    wishes = {"steps": 3, "save": 3, "default_cache": str(default), "peers": {}}
    command = [toy_run.__file__, json.dumps({"workdir": str(tmp_path / "run"), **wishes})]
    outputs = processes.finish(processes.start(command, 2, environment={"ESAM_COMPILE_CACHE": ""}))
    assert "several processes keep no compiled programs" in outputs[0][1]
    assert "compiled programs" not in outputs[1][1]
    assert compiled(tmp_path / "run") == ["off"]
    assert not default.exists()


def test_a_host_that_has_read_other_weights_is_found_before_the_first_update(cache, tmp_path):
    outputs = processes.finish(run(2, cache, workdir=str(tmp_path), weights=1), codes=[2, 2])
    for _, errors in outputs:
        assert re.search(r"esam: host 1 \(.+\) differs from host 0 in frozen\.teacher: ", errors)
        assert "start every host with the same command, code, packages and data" in errors
    assert saved(tmp_path) == []


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (ConfigError("a"), 2),
        (DiskError("a"), 75),
        (PermissionError(errno.EACCES, "Permission denied", "/data/a.jpg"), 2),
        (PermissionError(errno.EACCES, "Permission denied"), 1),
        (ZeroDivisionError("a"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_a_process_leaves_the_others_with_the_code_of_the_command_line(fault, code, monkeypatch):
    left = []
    monkeypatch.setattr(join.coordinator, "client", object)
    monkeypatch.setattr(join.atexit, "register", lambda leave, *how: left.append(how))
    with pytest.raises(type(fault)), join.joined(PeersConfig(), {}):
        raise fault
    assert left == [(code, False)]
