"""Curves from the metrics of runs, drawn when matplotlib is installed."""

from collections.abc import Mapping
from pathlib import Path

from esam_jax import files
from esam_jax.train.telemetry import log

MISSING = 'no {}: pip install "esam_jax[plots]" brings matplotlib'


def loss(workdir: Path) -> str:
    """Draws plots/loss.png of a run; gives back one line about it, or about what is missing."""
    return curves({workdir.name: workdir}, "loss", "training loss", workdir / "plots" / "loss.png")


def curves(runs: Mapping[str, Path], metric: str, label: str, target: Path) -> str:
    """Draws one metric of several runs, by their names; gives back one line about it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return MISSING.format(target)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, workdir in runs.items():
        lines = [line for line in log.read(workdir / log.METRICS_FILE) if metric in line]
        axes.plot([line["step"] for line in lines], [line[metric] for line in lines], label=name)
    axes.set(xlabel="updates", ylabel=label)
    axes.grid(alpha=0.3)
    axes.legend()
    target.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(target) as file:
        figure.savefig(file, format=target.suffix[1:], dpi=120)
    return f"{label} drawn in {target}"
