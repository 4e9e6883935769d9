"""The table of a study, from made-up results, against numpy and by hand."""

import dataclasses

import numpy as np
import pytest
from helpers import study_results

from esam_jax.study import gathered
from esam_jax.study.design import Design, Trial

DESIGN = Design(arms=("sami", "mae", "scratch"), seeds=(0, 1, 2), labelled=(16,), classified=50)
FOUND = study_results.study(DESIGN)
TABLE = gathered.table(FOUND, DESIGN)


def values(arm: str, kind: str, number: int, measure: str) -> np.ndarray:
    return np.array([FOUND[Trial(s, arm, kind, number)][measure] for s in DESIGN.seeds])


def test_every_cell_has_a_row_with_its_mean_and_paired_difference():
    keys = [(row["arm"], row["kind"], row["number"], row["measure"]) for row in TABLE["rows"]]
    assert len({*keys}) == len(keys) == 3 * (5 * 2 + 2 + 1 + 1)
    for row in TABLE["rows"]:
        key = row["kind"], row["number"], row["measure"]
        own, sami = values(row["arm"], *key), values("sami", *key)
        assert row["mean"] == pytest.approx(own.mean()) and row["seeds"] == 3
        half = 4.3027 * own.std(ddof=1) / np.sqrt(3)
        assert row["high"] - row["mean"] == pytest.approx(half, rel=1e-4)
        if row["arm"] == "sami":
            assert row["difference"] is None
        else:
            assert row["difference"]["mean"] == pytest.approx((own - sami).mean())
            spread = (own - sami).std(ddof=1) * 4.3027 / np.sqrt(3)
            assert row["difference"]["high"] - row["difference"]["mean"] == pytest.approx(
                spread, rel=1e-3, abs=1e-9
            )


def test_pairing_tells_apart_what_seeds_hide():
    row = gathered.curve(TABLE, "mae", "prompted", "box_miou")[0]
    sami = gathered.curve(TABLE, "sami", "prompted", "box_miou")[0]
    assert row["high"] > sami["low"]  # the intervals of the means overlap
    assert gathered.interval(row["difference"]).sign == -1


def test_steps_to_reach_sami_are_those_of_the_mean_curves():
    """0.66 + 0.018 d = 0.70 + 0.01 s + 0.1 + a third of 0.001, in doublings from 40."""
    by = {(x["arm"], x["measure"], x["sami_steps"]): x for x in TABLE["reach"]}
    assert len(by) == 2 * 2 * 5
    mae = by["mae", "box_miou", 80]
    doublings = (0.70 + 0.01 + 0.001 / 3 - 0.66) / 0.018
    assert mae["steps"] == pytest.approx(40 * 2**doublings, rel=0.01) and not mae["beyond"]
    assert by["mae", "box_miou", 640]["beyond"]  # 0.732 and 0.740
    assert by["scratch", "point_miou", 40]["steps"] is None
    assert by["scratch", "box_miou", 40]["beyond"]  # 0.64 at the end


def test_costs_and_totals_count_pretraining():
    assert TABLE["costs"]["sami"]["flops"] == 1e12 and "scratch" not in TABLE["costs"]
    rows = {row["arm"]: row for row in TABLE["rows"] if row["cell"] == "prompted_640"}
    assert gathered.total(TABLE, rows["sami"]) == pytest.approx(1e12 + 640 * 2e9)
    assert gathered.total(TABLE, rows["scratch"]) == pytest.approx(640 * 2e9)
    assert TABLE["references"]["box_miou"]["mean"] == pytest.approx(0.87)


def test_what_does_not_hold_is_listed():
    assert gathered.not_held(TABLE) == []
    found = dict(FOUND)
    for seed, shift in zip(DESIGN.seeds, (0.02, -0.03, 0.01), strict=True):
        trial = Trial(seed, "mae", "prompted", 640)
        sami = found[dataclasses.replace(trial, arm="sami")]["box_miou"]
        found[trial] = {**found[trial], "box_miou": sami + shift}
    listed = gathered.not_held(gathered.table(found, DESIGN))
    assert [(row["arm"], row["cell"], row["measure"]) for row in listed] == [
        ("mae", "prompted_640", "box_miou")
    ]


def test_a_study_that_is_not_finished_has_a_table_of_what_there_is():
    some = {trial: x for trial, x in FOUND.items() if trial.seed < 1 and trial.number != 640}
    table = gathered.table(some, DESIGN)
    assert all(row["seeds"] == 1 and row["low"] is None for row in table["rows"])
    assert {row["number"] for row in table["rows"] if row["kind"] == "prompted"} == {
        *(40, 80, 160, 320)
    }
    assert gathered.not_held(table) != []  # one seed cannot tell
    assert gathered.table({}, DESIGN)["rows"] == []


def test_the_best_rates_are_those_of_the_highest_mean():
    design = Design(arms=("sami,rate=1e-3", "sami", "scratch"), seeds=(1000,), budgets=(160,))
    found = {
        each: study_results.found(dataclasses.replace(each, arm="sami", seed=0))
        if each.kind != "reference"
        else study_results.found(each)
        for each in design.trials()
    }
    low = Trial(1000, "sami", "prompted", 160)
    found[low] = {**found[low], "box_miou": 0.1}
    assert gathered.best(gathered.table(found, design)) == {
        "sami": "sami,rate=1e-3",
        "scratch": "scratch",
    }
