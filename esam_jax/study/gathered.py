"""What all trials of a study found, as one table: means over seeds, differences to SAMI, costs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from esam_jax.study import intervals
from esam_jax.study.arms import SAMI, named
from esam_jax.study.design import Design, Trial, reference
from esam_jax.study.intervals import Mean

Found = Mapping[Trial, Mapping[str, Any]]  # what was measured of each trial
MEASURES = {"box_miou": "box", "point_miou": "one point", "top1": "top-1"}


def table(found: Found, design: Design) -> dict[str, Any]:
    """Content of table.json, of the trials that are done.

    `cells`: what each trial found; `rows`: for each cell, arm and measure the mean over seeds with
    its 95 % interval (`low`, `high`; null of one seed), and `difference`: that to SAMI, paired by
    seed; `references`: the teacher, and filling the box; `costs`: steps and FLOP of each
    pretraining; `reach`: the prompted steps that an arm needs to reach what SAMI reaches (`steps`;
    null where its longest run does not).
    """
    cells = [
        {"arm": each.arm, "seed": each.seed, "cell": each.cell, "kind": each.kind}
        | {"number": each.number, **found[each]}
        for each in design.trials()
        if each in found
    ]
    return {
        "design": dataclasses.asdict(design),
        "arms": {name: named(name).title for name in design.arms},
        "references": references(found, design),
        "costs": costs(found, design),
        "rows": rows(found, design),
        "reach": reach(found, design),
        "cells": cells,
    }


def references(found: Found, design: Design) -> dict[str, dict[str, Any]]:
    """What the teacher reaches, and what an answer does that is the box itself: means."""
    kept = [found[each] for seed in design.seeds if (each := reference(seed)) in found]
    return {
        key: dataclasses.asdict(intervals.mean([each[key] for each in kept]))
        for key in ("box_miou", "point_miou", "fill_box")
        if kept
    }


def costs(found: Found, design: Design) -> dict[str, dict[str, Any]]:
    """Of each arm's pretraining: `steps`, `batch`, `peak_lr`, `flops`; none of it from scratch."""
    keys = ("steps", "batch", "peak_lr", "flops")
    return {
        arm: {key: found[trial][key] for key in keys}
        for arm in design.arms
        if (trial := Trial(design.seeds[0], arm, "pretraining")) in found
    }


def rows(found: Found, design: Design) -> list[dict[str, Any]]:
    """A row for each cell, arm and measure that was found of any seed."""
    listed = []
    for trial in dict.fromkeys(dataclasses.replace(each, seed=0) for each in design.cells()):
        for measure in MEASURES:
            values = of_seeds(found, design, trial, measure)
            if not values:
                continue
            listed.append(
                {
                    "cell": trial.cell,
                    "kind": trial.kind,
                    "number": trial.number,
                    "arm": trial.arm,
                    "measure": measure,
                    **dataclasses.asdict(intervals.mean([*values.values()])),
                    "difference": _to_sami(values, found, design, trial, measure),
                    "flops": _cost(found, design, trial),
                }
            )

    def place(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["kind"] != "prompted", row["kind"], row["number"], design.arms.index(row["arm"])

    return sorted(listed, key=place)


def _to_sami(
    values: Mapping[int, float], found: Found, design: Design, trial: Trial, measure: str
) -> dict[str, Any] | None:
    """The interval of the difference, of the seeds that both have."""
    sami = of_seeds(found, design, dataclasses.replace(trial, arm=SAMI), measure)
    both = sorted(values.keys() & sami.keys())
    if trial.arm == SAMI or not both:
        return None
    return dataclasses.asdict(
        intervals.paired([values[seed] for seed in both], [sami[seed] for seed in both])
    )


def of_seeds(found: Found, design: Design, trial: Trial, measure: str) -> dict[int, float]:
    """The values of a cell by seed."""
    each = {seed: dataclasses.replace(trial, seed=seed) for seed in design.seeds}
    return {
        seed: found[one][measure]
        for seed, one in each.items()
        if one in found and measure in found[one]
    }


def _cost(found: Found, design: Design, trial: Trial) -> int | float:
    """FLOP of a cell's training, the same for all seeds."""
    each = (dataclasses.replace(trial, seed=seed) for seed in design.seeds)
    return next(found[one]["flops"] for one in each if one in found)


def curve(table: Mapping[str, Any], arm: str, kind: str, measure: str) -> list[dict[str, Any]]:
    """The rows of an arm along the numbers of a kind of cell."""
    wanted = {"arm": arm, "kind": kind, "measure": measure}
    return [row for row in table["rows"] if wanted.items() <= row.items()]


def reach(found: Found, design: Design) -> list[dict[str, Any]]:
    """For each arm, budget and measure of prompts: `steps` with which the mean curve of the arm
    reaches SAMI's mean at `sami_steps`, interpolated in the logarithm of steps; `beyond` where its
    longest run does not reach it, `first` where its shortest does."""
    listed, every = [], {"rows": rows(found, design)}
    for measure in ("box_miou", "point_miou"):
        sami = curve(every, SAMI, "prompted", measure)
        for arm in design.arms:
            points = [
                (row["number"], row["mean"]) for row in curve(every, arm, "prompted", measure)
            ]
            if arm == SAMI or not points:
                continue
            for row in sami:
                steps = intervals.reached(points, row["mean"])
                listed.append(
                    {"arm": arm, "measure": measure, "sami_steps": row["number"]}
                    | {"steps": None if steps is None else round(steps, 1)}
                    | {"beyond": steps is None, "first": steps == points[0][0]}
                )
    return listed


def interval(row: Mapping[str, Any]) -> Mean:
    """The interval of a row or difference."""
    return Mean(*(row[field.name] for field in dataclasses.fields(Mean)))


def total(table: Mapping[str, Any], row: Mapping[str, Any]) -> float:
    """FLOP of a row, its pretraining included."""
    return row["flops"] + table["costs"].get(row["arm"], {"flops": 0})["flops"]


def best(table: Mapping[str, Any]) -> dict[str, str]:
    """Of the arms that differ by their rates alone, the one with the highest mean over all cells,
    by the name before the comma."""
    found: dict[str, dict[str, float]] = {}
    for arm in table["arms"]:
        own = [row["mean"] for row in table["rows"] if row["arm"] == arm]
        if own:
            found.setdefault(arm.partition(",")[0], {})[arm] = sum(own) / len(own)
    return {name: max(each, key=lambda arm: each[arm]) for name, each in found.items()}


def not_held(table: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Rows of other frameworks and ablations that SAMI is not above, as far as can be told: those
    whose difference to SAMI has an interval that holds 0 or lies above it."""
    return [
        row
        for row in table["rows"]
        if row["difference"] is not None and interval(row["difference"]).sign >= 0
    ]
