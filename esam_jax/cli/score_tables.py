"""Scores of masks and boxes as lines of text: a table, what it is of, and what was left out."""

from collections.abc import Mapping
from typing import Any

from esam_jax.data import findings
from esam_jax.data.findings import KINDS
from esam_jax.words import counted

_SOURCES = ("data", "boxes", "results")


def of_numbers(rows: Mapping[str, Mapping[str, float] | None]) -> list[str]:
    """A line for each row that has numbers, by its title, below their names; empty where one is
    missing."""
    known = {title: numbers for title, numbers in rows.items() if numbers is not None}
    names = list(next(iter(known.values())))
    cells = [("", *names)]
    for title, numbers in known.items():
        cells.append((title, *(f"{numbers[x]:.4f}" if x in numbers else "" for x in names)))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def noted(result: Mapping[str, Any]) -> str:
    """What was left out or is missing, in brackets; "" for nothing."""
    broken = result.get("skipped", 0)
    counts = [f"{counted(broken, 'broken picture')} left out"] if broken else []
    if none := result.get("unanswered", 0):
        counts.append(f"{counted(none, 'picture')} without a result")
    counts += [findings.in_words(kind, result[kind]) for kind in KINDS if result.get(kind)]
    return f" ({', '.join(counts)})" if counts else ""


def sources(result: Mapping[str, Any]) -> list[str]:
    """Digests of what was read, the model, and the time it took."""
    names = [f"{name}: {result[name]}" for name in _SOURCES if name in result]
    lines = ["; ".join(names)]
    if "model" in result:
        lines.append(f"model {result['model']}: {result['model_hash']}")
    done = result.get("resumed", 0)
    resumed = f", {counted(done, 'picture')} done before" if done else ""
    return [*lines, f"{result['seconds']} seconds{resumed}"]
