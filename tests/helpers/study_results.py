"""What the trials of a study may have found, made up: quality rises with steps, by arm and seed."""

import math
from typing import Any

from esam_jax.study.design import Design, Trial

# Where an arm starts, and what each doubling of its steps adds.
CURVES = {"sami": (0.70, 0.010), "mae": (0.66, 0.018), "scratch": (0.55, 0.030)}
FLOPS = 2e9  # of an update, in pretraining as after it


def found(trial: Trial) -> dict[str, Any]:
    """The content of measured.json of a trial."""
    if trial.kind == "reference":
        return {"box_miou": 0.87, "point_miou": 0.82, "fill_box": 0.6, "masks": 90}
    if trial.kind == "pretraining":
        steps = {"sami": 500}.get(trial.arm, 900)
        return {"steps": steps, "batch": 32, "peak_lr": 2e-3, "flops": FLOPS * 500}
    start, slope = CURVES[trial.arm]
    # Seeds differ by more than arms do, and a little in how much they differ.
    value = start + slope * math.log2(trial.number / 40) + 0.1 * trial.seed
    value += 0.001 * (trial.seed % 2) * (trial.arm == "sami")
    prompts = {"box_miou": value, "point_miou": value - 0.05, "fill_box": 0.6, "masks": 90}
    common = {"steps": trial.number, "batch": 16, "peak_lr": 2e-3, "flops": FLOPS * trial.number}
    return common | ({"top1": value} if trial.kind in ("classified", "probed") else prompts)


def study(design: Design) -> dict[Trial, dict[str, Any]]:
    """Of all its trials."""
    return {trial: found(trial) for trial in design.trials()}
