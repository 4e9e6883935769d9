"""Before and after: what the page says is what two evaluations say, and nothing is hidden."""

import csv
import dataclasses
import json
import math
from collections import defaultdict

import jax
import numpy as np
import pytest
from PIL import Image

import esam_jax as esam
from esam_jax.config import EvaluateConfig, ScenesConfig
from esam_jax.evaluate import runner
from esam_jax.report import comparison

pytestmark = pytest.mark.slow  # measures two models

MEASURED = EvaluateConfig(
    source=ScenesConfig(split="heldout", scenes=12), images=12, masks_per_image=5
)


@pytest.fixture(scope="module")
def models():
    """The shipped model, and one that knows nothing."""
    good = esam.load("quickstart_teacher")
    bad = type(good)(good.model, jax.tree.map(np.zeros_like, good.params))
    return {"good": good, "bad": bad}


@pytest.fixture(scope="module")
def compared(models, tmp_path_factory):
    """(run folder, what was found) of going from nothing to the shipped model."""
    run = tmp_path_factory.mktemp("run")
    return run, comparison.write(
        run, lambda: models["bad"], lambda: models["good"], MEASURED, progress=False
    )


def objects(run, name):
    with (run / "validation" / name / "objects.csv").open() as file:
        return list(csv.DictReader(file))


def size_of(area):
    return "small" if area < 32**2 else "medium" if area < 96**2 else "large"


def test_the_table_is_the_mean_over_objects(compared):
    run, found = compared
    both = {name: objects(run, name) for name in ("before", "after")}
    columns = {"a box": "box", "box": "box", "one click": "uniform_1"}
    assert {row["size"] for row in found["rows"]} >= {"all", "small"}
    for row in found["rows"]:
        for name, rows in both.items():
            ious = [
                float(each[columns[row["prompt"]]])
                for each in rows
                if row["size"] in ("all", size_of(float(each["area"])))
            ]
            assert row[name] == pytest.approx(math.fsum(ious) / len(ious), abs=1e-9)
            assert row["masks"] == len(ious)
    assert not found["lost"]
    assert json.loads((run / "validation" / "comparison.json").read_text()) == found


def test_worst_and_best_are_ranked_by_the_model_after(compared):
    run, found = compared
    ious = defaultdict(list)
    for each in objects(run, "after"):
        ious[each["picture"]] += [float(each["box"]), float(each["uniform_1"])]
    means = {name: sum(values) / len(values) for name, values in ious.items()}
    ranked = sorted(means, key=means.get)
    assert found["worst"] == ranked[:5]
    assert found["best"] == ranked[::-1][:5]


@pytest.mark.parametrize(("pictures", "worst", "best"), [(1, 1, 0), (3, 2, 1), (12, 5, 5)])
def test_no_picture_is_both_worst_and_best(pictures, worst, best, models, tmp_path):
    measured = dataclasses.replace(MEASURED, images=pictures)
    found = comparison.write(
        tmp_path, lambda: models["good"], lambda: models["good"], measured, progress=False
    )
    assert (len(found["worst"]), len(found["best"])) == (worst, best)
    assert not {*found["worst"]} & {*found["best"]}


def test_the_page_has_numbers_and_masks(compared):
    run, found = compared
    part = comparison.section(run)
    for row in found["rows"]:
        assert f"{row['after']:.3f}" in part and f"{row['after'] - row['before']:+.3f}" in part
    assert "no size of objects has lost" in part
    with Image.open(run / "report.png") as sheet:
        # A title, ten pictures, six columns.
        assert sheet.width > 6 * 208 and sheet.height > 10 * 100
    assert "data:image/png;base64," in part
    assert "box" in comparison.in_words(found)


def test_what_has_become_worse_is_said(models, tmp_path):
    found = comparison.write(
        tmp_path, lambda: models["good"], lambda: models["bad"], MEASURED, progress=False
    )
    assert "all" in found["lost"] and "small" in found["lost"]
    assert "worse than before: all, small" in comparison.section(tmp_path)


def test_a_second_call_measures_what_has_changed(models, compared, monkeypatch):
    run, found = compared
    resumed = []
    evaluate = runner.evaluate

    def counting(*args, **more):
        result = evaluate(*args, **more)
        resumed.append(result["resumed"])
        return result

    monkeypatch.setattr(runner, "evaluate", counting)
    again = comparison.write(
        run, lambda: models["bad"], lambda: models["good"], MEASURED, progress=False
    )
    assert again == found and resumed == [12, 12]
    del resumed[:]
    comparison.write(run, lambda: models["bad"], lambda: models["bad"], MEASURED, progress=False)
    assert resumed == [12, 0]
    comparison.write(run, lambda: models["bad"], lambda: models["good"], MEASURED, progress=False)


def test_a_run_without_a_comparison_has_no_such_part(tmp_path):
    assert comparison.section(tmp_path) == ""
