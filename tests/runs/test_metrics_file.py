"""metrics.jsonl: one value per step after a resume, and nothing of a killed process."""

import json
import math
import os
import subprocess
from pathlib import Path

from esam_jax import files
from esam_jax.runs import metrics_file
from esam_jax.runs.metrics_file import MetricsFile


def test_a_resumed_run_has_one_value_per_step(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    first = MetricsFile(file, 0)
    for step in (1, 2, 3):
        first.write({"step": step, "loss": 1.0 * step})
    MetricsFile(file, 1).write({"step": 2, "loss": 20.0})
    losses = [(x["step"], x["loss"]) for x in metrics_file.read(file) if "loss" in x]
    assert losses == [(1, 1.0), (2, 20.0)]


def test_numbers_that_json_does_not_have_become_null(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    MetricsFile(file, 0).write({"step": 1, "loss": math.nan, "peak": math.inf})
    assert json.loads(file.read_text()) == {"step": 1, "loss": None, "peak": None}


def test_what_a_killed_process_left_unfinished_is_removed(tmp_path: Path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    gone = tmp_path / f".config.json.0a1b2c3d.{files.HOST}-{dead.pid}.new"
    stays = tmp_path / f".config.json.0a1b2c3d.{files.HOST}-{os.getppid()}.new"
    for file in (gone, stays):
        file.write_text("half")
    MetricsFile(tmp_path / "metrics.jsonl", 0)
    assert not gone.exists() and stays.exists()


def test_an_attempt_follows_whatever_a_killed_process_left(tmp_path):
    file = tmp_path / "metrics.jsonl"
    metrics_file.append_attempt(file, 0, host="a")
    assert metrics_file.read(file) == [{"step": 0, "event": "attempt", "host": "a"}]
    with file.open("a") as out:
        out.write('{"step": 1, "lo')
    metrics_file.append_attempt(file, 0, host="b")
    assert [line["host"] for line in metrics_file.read(file)] == ["a", "b"]
    assert metrics_file.folded(metrics_file.read(file), 0) == metrics_file.read(file)
