"""The claim of the quickstart: SAMI against MAE and scratch, from the table of a study of one seed.

`make run` is the preset `first` of the study, with a contact sheet and a verdict.
"""

import dataclasses
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from esam_jax import files, outputs
from esam_jax.data import sources
from esam_jax.data.records import Source
from esam_jax.evaluate import clicking, numbers, targets
from esam_jax.evaluate.protocol import MIN_AREA_PX
from esam_jax.evaluate.targets import Target
from esam_jax.ops import regions
from esam_jax.predict import draw, load
from esam_jax.predict.prompt import Prompt
from esam_jax.predict.sam import Sam
from esam_jax.study import comparing, gathered, material, shown
from esam_jax.study.arms import SAMI, SCRATCH
from esam_jax.study.design import PRESETS, Design, Trial
from esam_jax.study.trials import MASKS

# What SAMI must gain for the claim to hold: means over all budgets and both prompts, and with a
# box after the longest one. Chosen with seeds from 1000 on: docs/quickstart.md has what they found.
GATES = {"over_scratch": 0.02, "over_filling": 0.10}
LABELS = {
    "over_scratch": "over scratch",
    "over_mae": "over MAE",
    "over_filling": "over filling the box",
}
SUMMARY_FILE, SHEET_FILE, STUDENT = "summary.json", "contact_sheet.png", "segment"
SHOWN = 6  # scenes on the contact sheet
_SHOWN_STEPS = 160  # of the models on it
_MEASURES = ("box_miou", "point_miou")


def run(
    workdir: Path, *, seed: int = 0, processes: int | None = None, progress: bool | None = None
) -> dict[str, Any]:
    """Runs the study, draws, and returns what it writes to `workdir/summary.json`: the `table` of
    `gathered.table`, `claim`, `seed` and `seconds`, which is None where a part was done before."""
    began, design = time.monotonic(), dataclasses.replace(PRESETS["first"], seeds=(seed,))
    fresh = not (workdir / comparing.SETTINGS_FILE).exists()
    for name in (SUMMARY_FILE, SHEET_FILE, STUDENT) if fresh else ():  # of something else, then
        outputs.require_file(
            workdir / name, overwrite=False, remedy="name another folder with --workdir"
        )
    table = comparing.run(workdir, design, processes=processes, progress=progress)
    student(workdir, seed, design)
    files.write(workdir / SHEET_FILE, draw.png(sheet(workdir, seed, design)))
    summary = {
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1) if fresh else None,
        "claim": claim(table),
        "table": table,
    }
    files.write(workdir / SUMMARY_FILE, json.dumps(summary, indent=1) + "\n")
    return summary


def student(workdir: Path, seed: int, design: Design) -> None:
    """Makes `workdir/segment` a link to the SAMI student of the longest fine-tuning."""
    link, run = workdir / STUDENT, Trial(seed, SAMI, "prompted", max(design.budgets)).folder
    if link.is_symlink() and os.readlink(link) == run:
        return
    link.unlink(missing_ok=True)
    link.symlink_to(run, target_is_directory=True)


# --------------------------------------------------------------------------------------- claim


def claim(table: Mapping[str, Any]) -> dict[str, Any]:
    """Whether SAMI gains what it must: `holds`, and for each of LABELS `found`, `least` (None where
    nothing is promised) and `holds`."""
    found = {
        "over_scratch": gain(table, SCRATCH),
        "over_mae": gain(table, "mae"),
        "over_filling": gathered.curve(table, SAMI, "prompted", "box_miou")[-1]["mean"]
        - table["references"]["fill_box"]["mean"],
    }
    gates = {
        name: {
            "found": round(value, 6),
            "least": GATES.get(name),
            "holds": name not in GATES or value >= GATES[name],
        }
        for name, value in found.items()
    }
    return {"holds": all(gate["holds"] for gate in gates.values()), "gates": gates}


def gain(table: Mapping[str, Any], arm: str) -> float:
    """By how much SAMI is above an arm, over all budgets and both prompts."""
    rows = [row for each in _MEASURES for row in gathered.curve(table, arm, "prompted", each)]
    return -numbers.mean(row["difference"]["mean"] for row in rows)


def verdict(summary: Mapping[str, Any]) -> str:
    """The claim in one line, with every gain and what it must be."""
    parts = []
    for name, gate in summary["claim"]["gates"].items():
        least = gate["least"]
        promised = "" if least is None else f"at least {least:+.2f}"
        promised = promised if gate["holds"] else f"must be {promised}"
        parts.append(
            f"{LABELS[name]} {gate['found']:+.3f}" + (f" ({promised})" if promised else "")
        )
    head = "SAMI wins" if summary["claim"]["holds"] else "SAMI does not win"
    return f"{head}, mIoU over all budgets: {', '.join(parts)}"


def text(summary: Mapping[str, Any]) -> str:
    """The figures for people: box and one point by prompted steps, what others need, the costs."""
    table = summary["table"]
    steps = table["design"]["budgets"]
    lines = [
        f"{'box / one point':<16}" + "".join(f"{n:>16}" for n in steps) + f"{'TFLOP before':>14}"
    ]
    for arm, title in table["arms"].items():
        curves = [gathered.curve(table, arm, "prompted", each) for each in _MEASURES]
        cells = [
            f"{box['mean']:.3f} / {point['mean']:.3f}" for box, point in zip(*curves, strict=True)
        ]
        cost = table["costs"].get(arm, {"flops": 0})["flops"] / 1e12
        lines.append(f"{title:<16}" + "".join(f"{cell:>16}" for cell in cells) + f"{cost:>14.2f}")
    known = table["references"]
    teacher = f"{known['box_miou']['mean']:.3f} / {known['point_miou']['mean']:.3f}"
    lines.append(f"teacher {teacher}; filling the box {known['fill_box']['mean']:.3f}")
    return "\n".join([*lines, *shown.reached(table)])


# --------------------------------------------------------------------------------------- sheet


def sheet(workdir: Path, seed: int, design: Design) -> np.ndarray:
    """Held-out scenes with their prompts, the truth and each model's masks: uint8 RGB."""
    steps = _SHOWN_STEPS if _SHOWN_STEPS in design.budgets else max(design.budgets)
    models: dict[str, Sam] = {"SAM teacher": load(design.teacher)}
    for arm in design.arms:
        trial = Trial(seed, arm, "prompted", steps)
        models[f"{shown.title(arm)}, {steps} steps"] = load(workdir / trial.folder)
    source = sources.open_source(material.held_out(design, seed))
    rows = [_row(source, place, models) for place in range(SHOWN)]
    return draw.contact_sheet(rows, ("prompts", "ground truth", *models))


def _row(source: Source, place: int, models: Mapping[str, Sam]) -> draw.Row:
    scene = targets.of(source.read(place), most=MASKS, seed=0, min_area_px=MIN_AREA_PX, given=False)
    truth = np.stack([target.mask.dense() for target in scene.targets])
    # Boxes and clicks in turn, one prompt for each object.
    asked = [_prompt(target, k % 2) for k, target in enumerate(scene.targets)]
    answers = [sam.decode(sam.encode(scene.image), asked).best()[1] for sam in models.values()]
    captions = [f"mIoU {_mean_iou(found, truth):.2f}" for found in answers]
    return draw.Row(
        picture=scene.image,
        prompts=asked,
        masks=[truth, *answers],
        captions=["", *captions],
    )


def _prompt(target: Target, click: int) -> Prompt:
    """Its tight box, or a click on it."""
    if not click:
        return target.box(given=False)
    return Prompt(points=clicking.uniform(target.generator(0), target.mask, 1))


def _mean_iou(found: np.ndarray, masks: np.ndarray) -> float:
    return numbers.mean(regions.iou(a, b) for a, b in zip(found, masks, strict=True))
