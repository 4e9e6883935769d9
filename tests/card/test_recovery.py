"""Fault checks on a stand-in for `esam train`: what each of them accepts, and what it does not."""

import dataclasses
import json
import sys

import pytest

from esam_jax.card import recovery
from esam_jax.card.recovery import Outcome, Runs
from esam_jax.card.setting import PRESETS
from esam_jax.errors import TrainingError

STEPS = 8
# A run whose log, checkpoints and model lie where those of esam train do. It resumes from its
# newest checkpoint. $FAULT names the one run that goes wrong, and how.
STAND_IN = """
import json, os, pathlib, sys, time
given = dict(zip(sys.argv[1:], sys.argv[2:]))
run = pathlib.Path(given["--workdir"])
steps, every = int(given["--steps"]), int(given["--save.every-steps"])
where, _, fault = os.environ.get("FAULT", "").partition("=")
fault = fault if run.name == where else ""
(run / "checkpoints").mkdir(parents=True, exist_ok=True)
(run / "model").mkdir(exist_ok=True)
writes = given.get("--peers.process", "0") == "0"
if "--compute.deterministic" not in sys.argv:  # a card would resume with other bits
    sys.exit("bits are not promised")
if fault == "refused":
    sys.exit("NCCL WARN Duplicate GPU detected")
if fault == "alarm":
    print("esam: after step 2, copies that must be equal differ: kernel on device 0 of host 0")
first = max((int(x.name) for x in (run / "checkpoints").iterdir()), default=0)
for step in range(first + 1, steps + 1):
    loss = 1 / step + (1e-9 if fault == "drift" and step > 3 else 0)
    if writes:
        with (run / "metrics.jsonl").open("a") as file:
            line = {"step": step, "loss": loss, "grad_norm": 1.0, "param_norm": 2.0}
            file.write(json.dumps(line) + "\\n")
    if writes and step % every == 0:
        (run / "checkpoints" / str(step)).mkdir()
    time.sleep(0.02 if fault != "hang" else 1000)
(run / "model/model.safetensors").write_bytes(b"weights" + fault.encode() * (fault == "model"))
sys.exit(1 if fault == "code" else 0)
"""


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Fault checks start this instead of `esam train`; the fault is named in the environment."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)

    class Stands(Runs):
        def __init__(self, folder, steps):
            super().__init__(folder, steps, [sys.executable, str(script)])

    monkeypatch.setattr(recovery, "Runs", Stands)
    monkeypatch.setattr(recovery, "_SECONDS", 20)
    return script


def rows(monkeypatch, fault=""):
    monkeypatch.setenv("FAULT", fault)
    setting = dataclasses.replace(PRESETS["small"], fault_steps=STEPS)
    return {row["check"]: row for row in recovery.measure(setting) if row}


def test_all_is_well(stand_in, monkeypatch):
    found = rows(monkeypatch)
    assert list(found) == [
        "undisturbed",
        "killed and resumed",
        "two runs at once",
        "two processes as one run",
        "alarms of replica checksums",
        "checksums by device and host",
    ]
    assert all(row["holds"] for row in found.values())
    killed = found["killed and resumed"]
    assert killed["largest_difference"] == 0.0
    assert killed["outcome"].startswith("killed after update") and "saved" in killed["outcome"]
    json.dumps(list(found.values()))


@pytest.mark.parametrize(
    ("fault", "check", "words"),
    [
        ("killed=drift", "killed and resumed", "other numbers"),
        ("killed=model", "killed and resumed", "other numbers"),
        ("second=code", "two runs at once", "exit codes 0, 1"),
        ("joined=code", "two processes as one run", "exit codes 1, 1"),
        ("first=alarm", "alarms of replica checksums", "copies that must be equal differ"),
    ],
)
def test_what_is_wrong_does_not_hold(stand_in, monkeypatch, fault, check, words):
    found = rows(monkeypatch, fault)
    assert [name for name, row in found.items() if not row["holds"]] == [check]
    assert words in found[check]["outcome"]


def test_drift_is_measured(stand_in, monkeypatch):
    row = rows(monkeypatch, "killed=drift")["killed and resumed"]
    assert 1e-9 < row["largest_difference"] < 1e-7


def test_one_process_a_card_is_no_fault(stand_in, monkeypatch):
    row = rows(monkeypatch, "joined=refused")["two processes as one run"]
    assert row["holds"] is None and "NCCL takes one process a card" in row["outcome"]


def test_a_run_that_hangs_is_ended(stand_in, monkeypatch, tmp_path):
    monkeypatch.setattr(recovery, "_SECONDS", 1)
    monkeypatch.setenv("FAULT", "joined=hang")
    runs = recovery.Runs(tmp_path, STEPS)
    assert [each.code for each in runs.finish("joined", 2)] == [None, None]
    row = recovery._joined(0.0, runs, [Outcome(None, ""), Outcome(None, "")])
    assert row["holds"] is False and "ended after its time" in row["outcome"]


@pytest.mark.parametrize("fault", ["undisturbed=refused", "killed=refused"])
def test_what_cannot_begin_ends_the_checks(stand_in, monkeypatch, fault):
    with pytest.raises(TrainingError, match="Duplicate GPU"):
        rows(monkeypatch, fault)
