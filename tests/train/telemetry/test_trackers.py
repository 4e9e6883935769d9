"""Sinks beside metrics.jsonl: asked for early, never in the way of a run."""

import sys
import types

import pytest
from helpers import toy

from esam_jax.config import json
from esam_jax.errors import ConfigError
from esam_jax.train import loop
from esam_jax.train.telemetry import log, trackers


class Sink:
    """Keeps what it is given, and fails from its n-th line on."""

    made = None

    def __init__(self, fails_from=1000):
        self.lines, self.closed, self.calls, self.fails_from = [], False, 0, fails_from
        Sink.made = self

    def write(self, step, values):
        self.calls += 1
        if self.calls >= self.fails_from:
            raise ConnectionError("no route")
        self.lines.append((step, dict(values)))

    def close(self):
        self.closed = True


@pytest.fixture
def use(monkeypatch):
    def use(fails_from=1000, name="tensorboard"):
        monkeypatch.setitem(trackers._TRACKERS, name, lambda workdir, config: Sink(fails_from))
        return toy.config(trackers=(name,))

    return use


def run_log(cfg, folder):
    with toy.open_log(cfg, folder) as report:
        for step in range(1, 9):
            report.write(step, {"loss": 1.0 / step, "names": ["a"], "finished": True})


def test_numbers_go_out_and_nothing_else(use, tmp_path):
    run_log(use(), tmp_path)
    assert [step for step, _ in Sink.made.lines] == list(range(1, 9))  # no event among them
    assert Sink.made.lines[1][1].keys() == {"step", "loss", "seconds"}
    assert Sink.made.closed


def test_f18_a_failing_sink_is_left_alone_after_a_few_times(use, tmp_path):
    cfg = use(fails_from=3)
    with pytest.warns(UserWarning, match="tensorboard failed 3 times in a row") as caught:
        run_log(cfg, tmp_path)
    assert len(caught) == 1 and Sink.made.calls == 5
    assert [line["step"] for line in log.read(tmp_path / "metrics.jsonl") if "loss" in line] == [
        *range(1, 9)
    ]


def test_f18_a_sink_that_does_not_start_or_end_is_done_without(use, tmp_path, monkeypatch):
    def refused(cfg, workdir):
        raise TimeoutError("the service does not answer")

    monkeypatch.setitem(trackers._TRACKERS, "wandb", refused)
    with pytest.warns(UserWarning, match="wandb does not start .*the run continues without"):
        run_log(toy.config(trackers=("wandb",)), tmp_path)

    def broken(self):
        raise OSError("gone")

    monkeypatch.setattr(Sink, "close", broken)
    with pytest.warns(UserWarning, match="cannot be closed"):
        run_log(use(), tmp_path / "..")


def test_f18_training_is_not_touched_by_a_sink(use, tmp_path, monkeypatch):
    monkeypatch.setattr("esam_jax.tasks.build", lambda cfg: toy.task())
    monkeypatch.setattr(loop.loader, "stream", toy.Stream)
    monkeypatch.setattr(trackers, "require", lambda names: None)
    with pytest.warns(UserWarning, match="tensorboard failed"):
        found = loop.run(use(fails_from=1), tmp_path / "with")
    assert found["finished"]
    wanted = loop.run(toy.config(), tmp_path / "without")
    assert found["loss"] == wanted["loss"]


def test_missing_package_is_named_before_anything(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    for name, package in (("tensorboard", "tensorboardX"), ("wandb", "wandb")):
        with pytest.raises(ConfigError, match=rf"{package} is not installed: .*esam_jax\[{name}\]"):
            loop.run(toy.config(trackers=(name,)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tensorboard_files(tmp_path):
    sink = trackers.TensorBoard(tmp_path)
    sink.write(3, {"loss": 0.5})
    sink.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in file.read_bytes()


def test_wandb_goes_on_with_its_run(tmp_path, monkeypatch):
    """Against a stand-in with the three calls that are used."""
    calls = []

    def init(**options):
        calls.append(options)
        return types.SimpleNamespace(log=lambda *a, **k: calls.append((a, k)), finish=lambda: None)

    fake = types.SimpleNamespace(
        init=init, util=types.SimpleNamespace(generate_id=lambda: f"id{len(calls)}")
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for _ in range(2):
        sink = trackers.Wandb(tmp_path, json.to_json(toy.config()))
        sink.write(3, {"loss": 0.5})
        sink.close()
    assert [call["id"] for call in calls[::2]] == ["id0", "id0"]
    assert calls[0]["resume"] == "allow" and calls[0]["config"]["seed"] == 0
    assert calls[1] == (({"loss": 0.5},), {"step": 3})
