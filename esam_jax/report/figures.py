"""Curves of runs as SVG files, drawn from their metrics."""

from collections.abc import Mapping
from pathlib import Path

from esam_jax import files
from esam_jax.report import charts
from esam_jax.report.charts import Series
from esam_jax.runs import metrics_file


def loss(workdir: Path) -> str:
    """Draws plots/loss.svg of a run; returns one line for its log."""
    target = workdir / "plots" / "loss.svg"
    return compare({workdir.name: workdir}, "loss", "training loss", target)


def compare(runs: Mapping[str, Path], metric: str, label: str, target: Path) -> str:
    """Draws one metric of several runs, given by name; returns one line for the log."""
    series = [Series(name, _points(workdir, metric)) for name, workdir in runs.items()]
    log = charts.is_skewed(series)
    if metric == "loss":
        known = [point for each in runs.values() for point in _points(each, metrics_file.BASELINE)]
        series += charts.level(metrics_file.BASELINE_NAME, known)
    drawn = charts.document(label, series, log=log)
    if not drawn:
        return f"{label} not drawn: no run has a finite {metric!r} in {metrics_file.METRICS_FILE}"
    target.parent.mkdir(parents=True, exist_ok=True)
    files.write(target, drawn)
    return f"{label} drawn in {target}"


def _points(workdir: Path, metric: str) -> list[tuple[charts.Number, charts.Number]]:
    lines = metrics_file.read(workdir / metrics_file.METRICS_FILE)
    found = [(line["step"], line.get(metric)) for line in lines if "event" not in line]
    return [(step, value) for step, value in found if isinstance(value, int | float)]
