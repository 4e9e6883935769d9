"""Figures: one SVG file, with a curve for each run that has the metric."""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

from esam_jax.report import figures
from esam_jax.runs import metrics_file


def run_with(folder: Path, losses: list[float | None]) -> Path:
    folder.mkdir(parents=True)
    lines = [json.dumps({"step": i, "loss": value}) for i, value in enumerate(losses)]
    # An event may have a loss; an evaluation has none, and a killed run leaves half a line.
    lines += ['{"step": 9, "event": "redone", "loss": 7.0}', '{"step": 9, "iou": 1}', '{"st']
    (folder / metrics_file.METRICS_FILE).write_text("\n".join(lines))
    return folder


def curves(file: Path) -> list[list[tuple[float, float]]]:
    """The points of each curve; the file must be well-formed XML."""
    root = ET.fromstring(file.read_text())
    lines = [node.get("points", "") for node in root.iter() if node.tag.endswith("polyline")]
    return [[(float(x), float(y)) for x, y in re.findall(r"(\S+),(\S+)", line)] for line in lines]


def test_loss_of_a_run(tmp_path: Path):
    run = run_with(tmp_path / "a", [3.0, 2.0, None, 1.5])
    assert figures.loss(run) == f"training loss drawn in {run / 'plots' / 'loss.svg'}"
    ((first, second, last),) = curves(run / "plots" / "loss.svg")
    assert first[0] < second[0] < last[0] and first[1] < second[1] < last[1]  # y points down
    text = (run / "plots" / "loss.svg").read_text()
    assert ">training loss</text>" in text and ">updates</text>" in text


def test_runs_share_the_axes_and_are_named(tmp_path: Path):
    runs = {"from A": run_with(tmp_path / "a", [3.0, 2.0]), "b": run_with(tmp_path / "b", [3.0, 1])}
    figures.compare(runs, "loss", "loss", tmp_path / "both.svg")
    a, b = curves(tmp_path / "both.svg")
    assert a[0] == b[0] and a[1][0] == b[1][0] and a[1][1] < b[1][1]
    assert ">from A</text>" in (tmp_path / "both.svg").read_text()


def test_a_loss_over_decades_gets_a_logarithmic_axis(tmp_path: Path):
    run = run_with(tmp_path / "a", [100.0, 10.0, 1.0])
    figures.loss(run)
    ((first, second, last),) = curves(run / "plots" / "loss.svg")
    assert abs((second[1] - first[1]) - (last[1] - second[1])) < 0.3


def test_a_loss_is_compared_with_that_of_the_mean(tmp_path: Path):
    run = run_with(tmp_path / "a", [3.0, 2.0, 1.5])
    lines = [{"step": i, "loss": 3.0 - i, "baseline_loss": 2.4 + 0.1 * i} for i in range(3)]
    (run / metrics_file.METRICS_FILE).write_text("\n".join(map(json.dumps, lines)))
    figures.loss(run)
    loss, baseline = curves(run / "plots" / "loss.svg")
    assert baseline[0][1] == baseline[1][1]
    assert loss[0][1] < baseline[0][1] < loss[1][1]  # 3, 2.5 and 2
    assert ">predicting the mean</text>" in (run / "plots" / "loss.svg").read_text()
    figures.compare({"a": run}, "baseline_loss", "baseline", tmp_path / "other.svg")
    assert len(curves(tmp_path / "other.svg")) == 1


def test_nothing_is_drawn_without_data(tmp_path: Path):
    run = run_with(tmp_path / "a", [None, None])
    assert figures.loss(run).startswith("training loss not drawn: no run has a finite 'loss'")
    assert not (run / "plots").exists()
