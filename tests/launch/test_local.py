"""launch/local.sh: which exit codes start the run again; processes live and die together."""

import itertools
import pathlib
import signal
import time

import pytest

ALWAYS = "def plan(number, attempt):\n    {}\n"


def test_the_arguments_arrive_unchanged(launcher):
    local = launcher(ALWAYS.format("return 0"))
    assert local.run("--name", "two words", "--data.source.path", "a*b") == 0
    assert local.notes("start").keys() == {(0, 0)}
    _pid, *arguments = local.notes("start")[0, 0].splitlines()
    expected = ["train", "toy", "--workdir", str(local.workdir), "--name", "two words"]
    assert arguments == [*expected, "--data.source.path", "a*b"]


def test_it_says_what_to_write(launcher):
    local = launcher(ALWAYS.format("return 0"))
    assert local.run(PROCESSES="0") == 2
    assert "write [PROCESSES=N] launch/local.sh CONFIG WORKDIR" in local.errors
    assert not local.notes("start")


def test_what_the_user_must_mend_is_not_tried_again(launcher):
    local = launcher(ALWAYS.format("return 2"))
    assert local.run() == 2
    assert len(local.notes("start")) == 1


@pytest.mark.parametrize(
    "end, code",
    [
        ("return 1", 1),
        ("return 75", 75),  # a code that is not known
        ("return 143", 143),  # stopped and saved, but the launcher got no SIGTERM
        ("kill(signal.SIGABRT)", 134),  # what a lost peer does
        ("kill()", 137),
    ],
)
def test_a_run_that_died_is_started_again_a_number_of_times(launcher, end, code):
    local = launcher(ALWAYS.format(end))
    assert local.run(RESTARTS="2") == code
    assert len(local.notes("start")) == 3
    assert "without progress" in local.errors


def test_a_run_that_recovers_is_done(launcher):
    local = launcher("def plan(number, attempt):\n    return 1 if attempt < 2 else 0\n")
    assert local.run(RESTARTS="2") == 0
    assert len(local.notes("start")) == 3


def test_a_newer_checkpoint_sets_the_count_back(launcher):
    """Steps are compared as numbers (9 < 10), and what is being written does not count."""
    local = launcher(
        "def plan(number, attempt):\n"
        "    save(8 + min(attempt, 3))\n"
        "    save('50.orbax-checkpoint-tmp')\n"
        "    return 1\n"
    )
    assert local.run(RESTARTS="1") == 1
    # Saves 8, 9, 10, 11 are progress; then one restart without any is allowed.
    assert len(local.notes("start")) == 5


def test_pauses_grow(launcher):
    local = launcher(ALWAYS.format("return 1"))
    begin = time.monotonic()
    assert local.run(RESTARTS="2", PAUSE="1") == 1
    assert time.monotonic() - begin >= 1 + 2


def test_told_to_stop_it_forwards_waits_and_leaves_with_143(launcher):
    local = launcher(
        "def plan(number, attempt):\n    terminated(143)\n    note('ready')\n    wait()\n"
    )
    local.start(PROCESSES="3").wait_for("ready", 3)
    local.process.send_signal(signal.SIGTERM)
    assert local.finish() == 143
    assert local.notes("term").keys() == {(0, 0), (1, 0), (2, 0)}
    assert len(local.notes("start")) == 3


def test_told_to_stop_between_two_starts_it_leaves_at_once(launcher):
    local = launcher(ALWAYS.format("return 1"))
    local.start(PAUSE="3600").wait_for("start")
    while "started again" not in local.process.stderr.readline():
        pass
    local.process.send_signal(signal.SIGTERM)
    assert local.finish() == 143
    assert len(local.notes("start")) == 1


def test_processes_that_do_not_listen_are_killed_with_their_workers(launcher):
    local = launcher(
        "def plan(number, attempt):\n    worker()\n    deaf()\n    note('ready')\n    wait()\n"
    )
    local.start(PROCESSES="2", GRACE="1").wait_for("ready", 2)
    local.process.send_signal(signal.SIGTERM)
    assert local.finish() == 137
    assert "before the state was saved: raise GRACE" in local.errors
    for pid in local.notes("worker").values():
        assert _gone(int(pid))


@pytest.mark.parametrize("which", ["SIGKILL", "SIGABRT"])
def test_when_one_process_dies_all_are_ended_and_started_together(launcher, which):
    local = launcher(
        "def plan(number, attempt):\n"
        "    peers_started(4)\n"
        "    if attempt == 0:\n"
        f"        kill(signal.{which}) if number == 2 else wait()\n"
        "    return 0\n"
    )
    assert local.run(PROCESSES="4") == 0
    starts = local.notes("start")
    assert starts.keys() == {(number, attempt) for number in range(4) for attempt in range(2)}
    assert local.notes("term").keys() == {(0, 0), (1, 0), (3, 0)}


def test_a_stopped_process_is_killed_when_another_dies(launcher):
    local = launcher(
        "def plan(number, attempt):\n"
        "    peers_started(2)\n"
        "    if attempt == 0:\n"
        "        kill(signal.SIGSTOP if number == 1 else signal.SIGABRT)\n"
        "    return 0\n"
    )
    assert local.run(PROCESSES="2", GRACE="1") == 0
    assert len(local.notes("start")) == 4


def test_the_first_failure_decides(launcher):
    """A user error that one process sees first is not hidden by how the others then die."""
    local = launcher(
        "def plan(number, attempt):\n"
        "    terminated(134)\n"
        "    peers_started(2)\n"
        "    return 2 if number == 1 else wait()\n"
    )
    assert local.run(PROCESSES="2") == 2
    assert len(local.notes("start")) == 2


def test_a_process_that_is_done_is_not_taken_for_the_whole(launcher):
    local = launcher(
        "def plan(number, attempt):\n"
        "    if number == 1 and attempt == 0:\n"
        "        time.sleep(0.5)\n"
        "        return 1\n"
        "    return 0\n"
    )
    assert local.run(PROCESSES="2") == 0
    assert len(local.notes("start")) == 4


def test_processes_meet_on_this_machine_only(launcher):
    local = launcher("def plan(number, attempt):\n    peers_started(2)\n    return 1 - attempt\n")
    assert local.run(PROCESSES="2") == 0
    addresses = {}
    for (number, attempt), text in local.notes("start").items():
        seen = dict(line.split("=") for line in text.splitlines() if "=" in line)
        assert seen["JAX_NUM_PROCESSES"] == "2" and seen["JAX_PROCESS_ID"] == str(number)
        assert seen["JAX_CPU_COLLECTIVES_IMPLEMENTATION"] == "gloo"
        assert seen["JAX_COORDINATOR_ADDRESS"].startswith("127.0.0.1:")
        assert seen["JAX_COORDINATOR_BIND_ADDRESS"] == seen["JAX_COORDINATOR_ADDRESS"]
        addresses.setdefault(attempt, set()).add(seen["JAX_COORDINATOR_ADDRESS"])
    assert [len(each) for each in addresses.values()] == [1, 1]


@pytest.mark.parametrize("how", ["CUDA_VISIBLE_DEVICES", "nvidia-smi"])
def test_gpus_are_split(launcher, how, monkeypatch):
    local = launcher(ALWAYS.format("return 0"))
    environment = {"JAX_PLATFORMS": "", "PROCESSES": "2"}
    if how == "nvidia-smi":
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        local.tool(how, "#!/bin/sh\nprintf '%s\\n' 0 1 2 3\n")
    else:
        environment[how] = "0,1,2,3"
    assert local.run(**environment) == 0
    starts = local.notes("start")
    assert "CUDA_VISIBLE_DEVICES=0,1" in starts[0, 0].splitlines()
    assert "CUDA_VISIBLE_DEVICES=2,3" in starts[1, 0].splitlines()


def test_gpus_that_cannot_be_split_are_refused(launcher):
    local = launcher(ALWAYS.format("return 0"))
    code = local.run(JAX_PLATFORMS="", PROCESSES="2", CUDA_VISIBLE_DEVICES="0,1,2")
    assert code == 2 and "PROCESSES=2 must divide 3 GPUs" in local.errors
    assert not local.notes("start")


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ([], {}, ["4"]),  # all GPUs of the machine
        ([], {"PROCESSES": "2"}, ["4"]),
        ([], {"CUDA_VISIBLE_DEVICES": "2,3"}, ["2"]),
        ([], {"JAX_PLATFORMS": "cpu"}, []),
        ([], {"DEVICES": "16"}, ["16"]),  # of several machines
        ([], {"DEVICES": "0"}, []),
        ([], {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:8476"}, []),
        ([], {"SLURM_STEP_NUM_TASKS": "2"}, []),
        (["--peers.devices", "3"], {}, ["3"]),
        (["--peers.coordinator", "10.0.0.1:8476"], {}, []),
        (["--peers.join-seconds", "60"], {}, ["4"]),
    ],
)
def test_jax_must_see_every_device(launcher, arguments, environment, expected, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    local = launcher(ALWAYS.format("return 0"))
    local.tool("nvidia-smi", "#!/bin/sh\nprintf '%s\\n' 0 1 2 3\n")
    assert local.run(*arguments, **{"JAX_PLATFORMS": ""} | environment) == 0
    for text in local.notes("start").values():
        words = text.splitlines()
        assert [b for a, b in itertools.pairwise(words) if a == "--peers.devices"] == expected


def _gone(pid):
    """Within a few seconds: who was killed needs a moment of a busy machine to be dead."""
    status = pathlib.Path(f"/proc/{pid}/status")
    for _ in range(100):
        try:
            if "\nState:\tZ" in status.read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.1)
    return False
