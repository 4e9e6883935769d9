"""A run is lengthened, or its schedule changed, on purpose: listed, logged and kept."""

import dataclasses
import json
import math

import jax
import pytest
from helpers import toy

from esam_jax import tasks
from esam_jax.cli import arguments
from esam_jax.config import RunConfig
from esam_jax.data import loader
from esam_jax.errors import CheckpointError
from esam_jax.runs import config_file
from esam_jax.train import loop
from esam_jax.train.checkpoint import manager
from esam_jax.train.telemetry import log

SHORT = toy.config(steps=4)
LONG = dataclasses.replace(SHORT, steps=6, optim=dataclasses.replace(SHORT.optim, peak_lr=0.005))
NAMED = ("steps", "optim.peak_lr")
CHANGES = {"steps": [4, 6], "optim.peak_lr": [0.01, 0.005]}


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    monkeypatch.setattr(tasks, "build", lambda cfg: toy.task(noise=0.1))
    monkeypatch.setattr(loader, "stream", toy.Stream)


def events(folder):
    lines = log.read(folder / "metrics.jsonl")
    return [
        {"step": line["step"], "changes": line["changes"]}
        for line in lines
        if line.get("event") == "config_change"
    ]


def test_a_finished_run_is_lengthened_and_again_is_nothing(tmp_path, capsys):
    loop.run(SHORT, tmp_path)
    with pytest.raises(CheckpointError) as error:
        loop.run(LONG, tmp_path)
    remedy = "To resume it, give --optim.peak-lr 0.01 --steps 4; for a new run, another workdir; "
    remedy += "to change the run on purpose, --resume-with optim.peak_lr=0.005 steps=6"
    assert "steps was 4, is 6" in str(error.value) and remedy in str(error.value)
    assert "optim.peak_lr was" in str(error.value) and manager.newest(tmp_path) == 4

    loop.run(LONG, tmp_path, resume_with=NAMED, progress=True)
    assert "changed from step 4 on" in capsys.readouterr().err
    assert manager.newest(tmp_path) == 6
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 6
    wanted = [{"step": 4, "changes": CHANGES}]
    assert config_file.history(tmp_path) == events(tmp_path) == wanted

    before = (tmp_path / "metrics.jsonl").read_text()
    assert loop.run(LONG, tmp_path, resume_with=NAMED)["step"] == 6
    assert loop.run(LONG, tmp_path)["step"] == 6  # it is the config of the run by now
    assert (tmp_path / "metrics.jsonl").read_text() == before
    assert config_file.history(tmp_path) == wanted


def test_the_remedy_for_a_switch_is_a_command_that_parses(tmp_path):
    on = dataclasses.replace(
        LONG, compute=dataclasses.replace(LONG.compute, deterministic=True), steps=4
    )
    off = dataclasses.replace(LONG, steps=4)
    for stored, now, remedy in (
        (on, off, "give --compute.deterministic; for"),
        (off, on, "leave out --compute.deterministic; for"),
        (off, dataclasses.replace(on, steps=6), "give --steps 4 and leave out --compute.determ"),
    ):
        config_file.store(stored, tmp_path)
        with pytest.raises(CheckpointError, match=f"To resume it, {remedy}"):
            config_file.require_same(now, tmp_path)
        given = remedy.startswith("give --compute")
        argv = ["--compute.deterministic"] if given else []
        assert arguments.parse(RunConfig, argv, prog="esam train", default=off) == stored


def test_another_schedule_compiles_nothing(tmp_path):
    """Neither does it keep the old one: its numbers are arguments of the same program."""
    slower = dataclasses.replace(LONG.optim, warmup_steps=3, final_lr=0.001)
    other = dataclasses.replace(LONG, optim=slower)
    names = (*NAMED, "optim.warmup_steps", "optim.final_lr")
    loop.run(SHORT, tmp_path)
    jax.clear_caches()  # as in another process; the compiled programs are kept in a folder
    loop.run(other, tmp_path, resume_with=names)
    lines = log.read(tmp_path / "metrics.jsonl")
    assert [line["cache"] for line in lines if line.get("event") == "compile"][1:] == ["hit"]
    rates = {line["step"]: line["learning_rate"] for line in lines if "loss" in line}
    by_hand = {n: 0.001 + 0.004 * (1 + math.cos(math.pi * (n - 4) / 3)) / 2 for n in (5, 6)}
    assert SHORT.optim.schedule == "cosine"
    assert {n: rates[n] for n in (5, 6)} == pytest.approx(by_hand, rel=1e-6)


def test_nothing_else_may_differ(tmp_path):
    loop.run(SHORT, tmp_path)
    other = dataclasses.replace(LONG, seed=1)
    with pytest.raises(CheckpointError, match=r"run: seed was 0, is 1\. To.* give --seed 0;"):
        loop.run(other, tmp_path, resume_with=NAMED)
    assert config_file.history(tmp_path) == [] and manager.newest(tmp_path) == 4


def test_a_change_that_no_update_would_use_is_refused(tmp_path):
    loop.run(SHORT, tmp_path)
    faster = dataclasses.replace(SHORT, optim=LONG.optim)
    with pytest.raises(CheckpointError, match=r"all 4 updates, so .*lr=0\.005 .*add steps=N"):
        loop.run(faster, tmp_path, resume_with=["optim.peak_lr"])
    assert config_file.history(tmp_path) == []


def test_a_run_is_not_shortened_below_what_is_done(tmp_path):
    loop.run(SHORT, tmp_path)
    with pytest.raises(CheckpointError) as error:  # nor does the remedy say that it could be
        loop.run(dataclasses.replace(SHORT, steps=3), tmp_path)
    assert "give --steps 4" in str(error.value) and "--resume-with" not in str(error.value)
    with pytest.raises(
        CheckpointError, match=r"^steps=3 is below the 4 updates that .* give more than 4$"
    ):
        loop.run(dataclasses.replace(SHORT, steps=3), tmp_path, resume_with=["steps"])


def test_a_lengthened_run_that_lost_its_end_is_not_taken_for_finished(tmp_path):
    loop.run(SHORT, tmp_path)
    loop.run(LONG, tmp_path, resume_with=NAMED)
    file = tmp_path / "metrics.jsonl"
    kept = [line for line in log.read(file) if not (line.get("finished") and line["step"] == 6)]
    file.write_text("".join(json.dumps(line) + "\n" for line in kept))
    assert loop.run(LONG, tmp_path)["finished"]
    assert [line["step"] for line in log.read(file) if line.get("finished")] == [4, 6]


def test_a_change_whose_event_was_lost_is_logged_by_the_next_start(tmp_path):
    loop.run(SHORT, tmp_path)
    config_file.store(LONG, tmp_path, 4)  # and the process ends
    loop.run(LONG, tmp_path, resume_with=NAMED)
    assert events(tmp_path) == [{"step": 4, "changes": CHANGES}]
