"""The alert hook: a real script learns what happened; a run does not notice when it fails."""

import dataclasses
import functools
import json
import os
import pathlib
import time
from typing import ClassVar

import jax
import pytest
from helpers import processes, steps, toy, toy_run
from helpers.hooks import facts, noting, script

from esam_jax.config import GuardConfig, MeshConfig, SaveConfig
from esam_jax.errors import CheckpointError, ConfigError, TrainingError
from esam_jax.processes import alert
from esam_jax.processes.alert import Alert
from esam_jax.runs import metrics_file
from esam_jax.train import loop
from esam_jax.train.checkpoint import step_folders


@pytest.fixture
def hook(tmp_path):
    return noting(tmp_path)


@pytest.fixture
def toys(monkeypatch):
    monkeypatch.setattr("esam_jax.tasks.build", lambda cfg: toy.task())
    monkeypatch.setattr(loop.loader, "stream", toy.Stream)


@pytest.mark.slow
def test_a_run_that_ends_says_so_in_every_way(toys, hook, tmp_path):
    cfg = toy.config(mesh=MeshConfig(data=8), alert=hook)
    loop.run(cfg, tmp_path / "run")
    (found,) = facts(tmp_path)
    assert (found["event"], found["step"], found["name"]) == ("finished", cfg.steps, cfg.name)
    assert found["message"] == f"{cfg.steps} updates are done" and found["host"]
    names = (tmp_path / "names").read_text().strip().split("|")
    assert names == ["finished", str(cfg.steps), cfg.name, str(tmp_path / "run")]
    loop.run(cfg, tmp_path / "run")  # which only reads
    assert len(facts(tmp_path)) == 1


@pytest.mark.slow
def test_an_error_and_a_full_disk_and_the_step_of_each(toys, hook, tmp_path, monkeypatch):
    room = step_folders.free_bytes
    run = tmp_path / "run"
    monkeypatch.setattr(
        step_folders,
        "free_bytes",
        lambda place: 10 if (run / "checkpoints/2").exists() else room(place),
    )
    save = SaveConfig(every_steps=2, full_disk="continue")
    with pytest.warns(UserWarning, match="training continues"):
        loop.run(toy.config(mesh=MeshConfig(data=8), alert=hook, save=save), run)
    assert [(each["event"], each["step"]) for each in facts(tmp_path)] == [
        ("full_disk", 4), ("full_disk", 6), ("finished", 6),
    ]  # fmt: skip
    assert "MB free" in facts(tmp_path)[0]["message"]


def test_the_reason_of_a_stop(toys, hook, tmp_path, monkeypatch):
    spoilt = lambda *args, **keys: toy.Stream(*args, spoil=2, **keys)  # noqa: E731
    monkeypatch.setattr(loop.loader, "stream", spoilt)
    guard = GuardConfig(max_skipped=1)
    with pytest.raises(TrainingError):
        loop.run(toy.config(mesh=MeshConfig(data=8), alert=hook, guard=guard), tmp_path / "run")
    (found,) = facts(tmp_path)
    assert found["event"] == "stopped" and "loss of step 3 is nan" in found["message"]
    assert found["step"] in (3, 4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShortMemory(GuardConfig):
    """A mean that is known after few updates."""

    spike_horizon_steps: ClassVar[int] = 4


def test_a_spike_that_is_gone_back_from(toys, hook, tmp_path, monkeypatch):
    def spike(number, batch):
        if number == 9:
            batch["y"] *= 30.0

    monkeypatch.setattr(loop.loader, "stream", functools.partial(toy.Stream, edit=spike))
    cfg = toy.config(
        steps=14, alert=hook, guard=ShortMemory(spike=4.0), save=SaveConfig(every_steps=4)
    )
    loop.run(cfg, tmp_path / "run")
    told = facts(tmp_path)
    assert [(each["event"], each["step"]) for each in told] == [("rollback", 8), ("finished", 14)]
    assert told[0]["message"].startswith("from 10, to 8, ")


@pytest.mark.parametrize("policy", ["stop", "fallback"])
def test_a_checkpoint_that_is_damaged(toys, hook, tmp_path, policy, capsys):
    run, save = tmp_path / "run", SaveConfig(every_steps=2, damaged=policy)
    loop.run(toy.config(save=save), run)
    (run / "metrics.jsonl").write_text("")  # as killed before it was finished
    steps.spoil(run / "checkpoints" / "6", steps.cut)
    cfg = toy.config(alert=hook, save=save)
    if policy == "stop":
        with pytest.raises(CheckpointError):
            loop.run(cfg, run)
    else:
        with pytest.warns(UserWarning, match="checkpoint 6 cannot be read"):
            loop.run(cfg, run)
        assert "esam: toy: resuming from step 4 of 6; log: " in capsys.readouterr().err
    first, last = facts(tmp_path)
    assert (
        first["event"] == "damaged_checkpoint"
        and str(run / "checkpoints" / "6") in first["message"]
    )
    assert last["event"] == {"stop": "stopped", "fallback": "finished"}[policy]


@pytest.mark.parametrize("error", [SystemExit(143), KeyboardInterrupt()])
def test_who_ends_a_run_on_purpose_is_not_alerted(hook, tmp_path, error):
    with pytest.raises(type(error)), Alert(hook, name="a", workdir=tmp_path):
        raise error
    assert facts(tmp_path) == []


def test_a_hook_that_fails_is_told_and_no_more(toys, tmp_path, capfd):
    failing = script(tmp_path / "fails", "#!/bin/sh\nexit 3\n")
    assert loop.run(toy.config(mesh=MeshConfig(data=8), alert=failing), tmp_path / "run")[
        "finished"
    ]
    assert (
        "the alert 'finished' failed" in (err := capfd.readouterr().err) and "ended with 3" in err
    )


def test_a_hook_that_hangs_is_ended_with_its_children(tmp_path, capfd):
    file = tmp_path / "child"
    hanging = script(tmp_path / "hangs", f"#!/bin/sh\nsleep 100 & echo $! > {file}\nwait\n")
    begin = time.monotonic()
    with Alert(hanging, name="a", workdir=tmp_path, timeout_seconds=1.0) as hook:
        hook.send("rollback", "gone back")
        assert time.monotonic() - begin < 0.5  # nobody waits for it
    assert time.monotonic() - begin < 20
    assert "ran longer than 1 s" in capfd.readouterr().err
    child = int(file.read_text())
    deadline = time.monotonic() + 10
    while pathlib.Path(f"/proc/{child}/stat").exists():
        if pathlib.Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
        assert time.monotonic() < deadline, "the child of the hook still runs"
        time.sleep(0.05)


def test_a_program_that_is_gone_is_told(tmp_path, capfd):
    with Alert("/nowhere/hook", name="a", workdir=tmp_path) as hook:
        hook.send("rollback", "gone back")
    assert "the alert 'rollback' could not be sent (FileNotFoundError" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("/nowhere/hook now", "no program '/nowhere/hook'"),
        ("'a", "not a command"),
        ("", "no program"),
    ],
)
def test_a_command_that_cannot_be_is_refused_first(toys, tmp_path, command, words):
    with pytest.raises(ConfigError, match=words):
        loop.run(toy.config(mesh=MeshConfig(data=8), alert=command), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    alert.require("sh -c 'mail -s \"$ESAM_EVENT\" me'")


@pytest.mark.slow
def test_of_two_hosts_that_hang_one_tells(hook, tmp_path):
    wishes = {"hang_seconds": 8, "peers": {"heartbeat_seconds": 100}, "alert": hook}
    wishes |= {"workdir": str(tmp_path / "run"), "sleep": {"host": 1, "step": 3}}
    started = processes.start([toy_run.__file__, json.dumps(wishes)], 2)
    processes.finish(started, codes=[75, 75], timeout=180)
    (found,) = facts(tmp_path)
    assert found["event"] == "hang" and "no update finished in" in found["message"]
    lines = metrics_file.read(tmp_path / "run" / "metrics.jsonl")
    assert found["step"] <= max(line["step"] for line in lines) + 2
    assert os.path.exists(tmp_path / "run" / "stacks" / "host_000.txt")


class Service:
    """The store of the coordination service: a key is set once."""

    def __init__(self):
        self.keys = set()

    def key_value_set(self, key, value):
        if key in self.keys:
            raise jax.errors.JaxRuntimeError(f"ALREADY_EXISTS: key {key} already exists.")
        self.keys.add(key)


@pytest.mark.parametrize("event", alert.EVENTS)
def test_of_two_hosts_one_tells_of_each_event(hook, tmp_path, monkeypatch, event):
    """The end of a run is reported once, at any step of each host; other events once a step."""
    service = Service()
    monkeypatch.setattr(alert.coordinator, "client", lambda: service)
    for host, steps_of_host in (("first", (4, 6)), ("second", (4, 7))):
        with Alert(hook, name=host, workdir=tmp_path) as told:
            for told.step in steps_of_host:
                told.send(event, "what happened")
    ending = event in ("hang", "finished", "stopped")
    expected = [("first", 4)] if ending else [("first", 4), ("first", 6), ("second", 7)]
    assert [(each["name"], each["step"]) for each in facts(tmp_path)] == expected
