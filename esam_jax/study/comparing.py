"""`esam study`: every trial of a design, one table of what they found.

study.json      the settings, which a second call must share
seed_N/ARM/     an ordinary run for each trial, with measured.json
table.json, table.md, curves/*.svg, page.html

Trials are written complete or resume inside, so the same command resumes after a kill, and one with
more arms, seeds or budgets does what is missing.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from esam_jax import files
from esam_jax.convert import load as models
from esam_jax.predict.everything import album
from esam_jax.study import gathered, material, shown, side_by_side, trials
from esam_jax.study.design import Design, Trial
from esam_jax.train.telemetry import log
from esam_jax.words import counted

SETTINGS_FILE, TABLE_FILE = "study.json", "table.json"
MARKDOWN_FILE, PAGE_FILE, CURVES = "table.md", "page.html", "curves"
RESULTS = (TABLE_FILE, MARKDOWN_FILE, PAGE_FILE, f"{CURVES}/*", "seed_*")
# What chooses among trials, and changes none of them.
_CHOICE = ("arms", "seeds", "budgets", "labelled", "classified")


def run(
    workdir: Path,
    design: Design,
    *,
    processes: int | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Runs what is not done yet, writes the files, and returns the content of table.json.

    ConfigError where the folder holds a study of other settings; arms, seeds and numbers of steps
    or pictures may be others. MissingError or DataError for pictures, or a teacher, that are not
    there.
    """
    models.locate(design.teacher)
    material.check(design)
    album.settle(workdir, _settings(design), SETTINGS_FILE, RESULTS)
    every = design.trials()
    found = {each: done for each in every if (done := trials.finished(each, workdir))}
    waiting = [each for each in every if each not in found]
    if waiting:
        kept = f", {len(found)} of them done before" if found else ""
        log.note(f"{counted(len(every), 'trial')}{kept}", progress)
        for trial, result, seconds in side_by_side.over(waiting, design, workdir, processes):
            found[trial] = result
            log.note(
                f"{len(found)}/{len(every)} {in_words(trial, result)} ({seconds:.0f} s)", progress
            )
    table = json.loads(json.dumps(gathered.table(found, design)))  # as it is read back
    write(workdir, table)
    return table


def write(workdir: Path, table: Mapping[str, Any]) -> None:
    """All files that are made of a table."""
    drawn = shown.curves(table)
    (workdir / CURVES).mkdir(exist_ok=True)
    for name, text in drawn.items():
        files.write(workdir / CURVES / name, text)
    files.write(workdir / MARKDOWN_FILE, shown.markdown(table))
    files.write(workdir / PAGE_FILE, shown.document(table, drawn))
    files.write(workdir / TABLE_FILE, json.dumps(table, indent=1) + "\n")


def in_words(trial: Trial, found: Mapping[str, Any]) -> str:
    """A trial with its figures, in a line."""
    figures = [
        f"{label} {found[key]:.3f}" for key, label in gathered.MEASURES.items() if key in found
    ]
    if not figures:
        figures = [f"{found['steps']:,} updates, {found['flops'] / 1e12:.2f} TFLOP"]
    return f"seed {trial.seed}, {trial.arm}, {trial.cell}: {', '.join(figures)}"


def _settings(design: Design) -> dict[str, Any]:
    values = dataclasses.asdict(design)
    return {key: value for key, value in values.items() if key not in _CHOICE}
