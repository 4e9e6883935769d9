"""Curves: drawn from what a run has written, or the extra that is missing is named."""

import json
import sys

import pytest

from esam_jax.report import plots
from esam_jax.train.telemetry import log


def _run(folder, values):
    folder.mkdir(parents=True)
    lines = [json.dumps({"step": i, "loss": value}) for i, value in enumerate(values)]
    # An evaluation has no loss, and a killed run leaves half a line.
    (folder / log.METRICS_FILE).write_text("\n".join([*lines, '{"step": 9, "iou": 1}', '{"st']))
    return folder


def test_loss_of_a_run(tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need the extra plots")
    assert "loss.png" in plots.loss(_run(tmp_path / "a", [3.0, 2.0]))
    assert (tmp_path / "a/plots/loss.png").read_bytes()[:4] == b"\x89PNG"


def test_curves_of_two_runs_differ_from_those_of_one(tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need the extra plots")
    runs = {"a": _run(tmp_path / "a", [3.0, 2.0]), "b": _run(tmp_path / "b", [3.0, 1.0])}
    plots.curves(runs, "loss", "loss", tmp_path / "both.png")
    plots.curves({"a": runs["a"]}, "loss", "loss", tmp_path / "one.png")
    assert (tmp_path / "both.png").read_bytes() != (tmp_path / "one.png").read_bytes()


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "esam_jax[plots]" in plots.loss(_run(tmp_path / "a", [1.0]))
