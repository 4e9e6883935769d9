"""Annotating and training in turn, at the smallest size; a kill at any stage loses nothing."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import made_sets, nano
from PIL import Image

from esam_jax import configs
from esam_jax.config import MeshConfig, SaveConfig, ScenesConfig
from esam_jax.data import sources
from esam_jax.engine import alternation, automatic_masks, pool
from esam_jax.errors import ConfigError
from esam_jax.ops import regions
from esam_jax.predict.everything import album
from esam_jax.train import loop

PLAN = alternation.Plan(
    rounds=1,
    labelled=2,
    unlabelled=3,
    heldout=2,
    points_per_side=2,
    pred_iou_thresh=0.0,
    stability_score_thresh=0.0,
    masks_per_picture=1.0,
)


class Killed(BaseException):
    pass


def config() -> Any:
    run = configs.load("quickstart_scratch")
    return dataclasses.replace(
        run,
        steps=2,
        batch=2,
        mesh=MeshConfig(data=1),
        optim=dataclasses.replace(run.optim, warmup_steps=1),
        log_every_steps=1,
        save=SaveConfig(every_steps=1),
    )


def alternate(workdir: Path) -> dict[str, Any]:
    return alternation.run(config(), workdir, PLAN, progress=False)


def numbers(result: dict[str, Any]) -> dict[str, Any]:
    """Without the times."""
    return result | {"rounds": [{**each, "seconds": None} for each in result["rounds"]]}


def dying(function: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    """The function, killed before its work is done or just after."""

    def die(*arguments: Any, **options: Any) -> Any:
        if after:
            function(*arguments, **options)
        raise Killed

    return die


def one_picture(*arguments: Any, **options: Any) -> Any:
    """`album.run`, killed when the first picture is done."""
    yield next(album_run(*arguments, **options))
    raise Killed


album_run = album.run
# Where each attempt dies; every one gets further than the one before.
DEATHS = [
    (pool, "write", dying(pool.write, after=False)),
    (loop, "run", dying(loop.run, after=True)),
    (album, "run", one_picture),
    (automatic_masks, "joined", dying(automatic_masks.joined, after=False)),
    (automatic_masks, "sheet", dying(automatic_masks.sheet, after=False)),
]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_programs")
def test_a_loop_that_is_killed_at_every_stage_ends_as_one_that_is_not(tmp_path, monkeypatch):
    undisturbed = alternate(tmp_path / "a")
    assert [each["round"] for each in undisturbed["rounds"]] == [0, 1]
    for each in undisturbed["rounds"]:
        assert all(0 <= each[name] <= 1 for name in alternation.CURVES)
    first, second = undisturbed["rounds"]
    assert first["pictures"] == 2 and first["annotated"] is None
    assert second["annotated"]["masks"] == second["masks"] - first["masks"] == 3
    for module, name, death in DEATHS:
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(module, name, death)
            alternate(tmp_path / "b")
    result = alternate(tmp_path / "b")
    assert numbers(result) == numbers(undisturbed)
    assert json.loads((tmp_path / "b" / "result.json").read_text()) == json.loads(
        json.dumps(result)
    )
    for name in ("sheet.png", "quality.svg", "data/round_1.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert np.asarray(Image.open(tmp_path / "a" / "sheet.png")).std() > 10
    # A finished loop is read, and no run of it is opened.
    monkeypatch.setattr(loop, "run", dying(loop.run, after=False))
    assert alternate(tmp_path / "b") == result


def test_the_most_stable_masks_are_annotated():
    def record(stability: float) -> dict[str, float]:
        return {"stability_score": stability, "predicted_iou": 1 - stability}

    records = {1: [record(0.9), record(0.2)], 2: [record(0.8), record(0.7)], 3: []}
    found = automatic_masks.best(records, per_picture=1.0)
    assert found == {1: [record(0.9)], 2: [record(0.8), record(0.7)], 3: []}
    assert automatic_masks.best(records, per_picture=5.0) == records
    assert automatic_masks.best({1: []}, per_picture=1.0) == {1: []}
    equal = {1: [record(0.5), record(float("nan"))], 2: [record(0.5), record(0.5)]}
    assert automatic_masks.best(equal, per_picture=1.0) == {1: equal[1][:1], 2: equal[2][:1]}


def test_a_config_for_ones_own_data_follows_its_rules(tmp_path):
    """Those of fine-tuning, for the pictures that the loop writes; keys that are given stay."""
    listed = made_sets.coco(tmp_path / "data", 20)
    run = configs.load("finetune")
    run = dataclasses.replace(
        run, steps=30, task=dataclasses.replace(run.task, init_from="quickstart_clicks")
    )
    work = alternation._Loop(run, tmp_path, PLAN, frozenset({"steps"}), False)
    found = work._config(listed, tmp_path / "run")
    assert found.data.source.path == str(listed) and found.data.source.part == "train"
    assert (found.steps, found.data.view.image_px, found.seed) == (30, 64, PLAN.seed)
    assert found.evaluate is not None and found.evaluate.source.part == "heldout"


def test_later_rounds_annotate_more():
    plan = alternation.Plan(masks_per_picture=2.0, more_masks=0.5)
    assert [plan.budget(number) for number in (1, 2, 3)] == [2.0, 2.5, 3.0]
    with pytest.raises(ConfigError, match=r"more_masks is -1\.0, but must be 0 or more"):
        alternation.Plan(more_masks=-1.0)


def mask(*box: int) -> dict[str, Any]:
    x0, y0, x1, y1 = box
    dense = np.zeros((8, 10), bool)
    dense[y0:y1, x0:x1] = True
    return regions.to_rle(dense)


def test_quality_counts_masks_that_match_an_object():
    truth = pool.coco(
        [{"id": 1}, {"id": 2}],
        [pool.annotation(1, mask(0, 0, 4, 4)), pool.annotation(1, mask(5, 0, 9, 8))],
    )
    masks = {1: [mask(0, 0, 4, 4), mask(5, 0, 9, 4), mask(0, 6, 3, 8)], 2: [mask(0, 0, 2, 2)]}
    found = automatic_masks.quality(masks, truth)
    assert found == {"masks": 4, "mean_iou": (1 + 0.5) / 4, "right": 0.25}
    assert automatic_masks.quality({1: [], 2: []}, truth)["right"] is None


@pytest.mark.parametrize(("pixels", "right"), [(15, 1.0), (14, 0.0)])
def test_a_mask_is_right_from_three_quarters_on(pixels: int, right: float):
    truth = pool.coco([{"id": 1}], [pool.annotation(1, row(20))])
    found = automatic_masks.quality({1: [row(pixels)]}, truth)
    assert found == {"masks": 1, "mean_iou": pixels / 20, "right": right}


def row(pixels: int) -> dict[str, Any]:
    return regions.to_rle(np.arange(40)[None] < pixels)


@pytest.mark.parametrize(("pixels", "wanted"), [(9, 0.0), (10, 0.1), (14, 0.5), (19, 1.0)])
def test_recall_is_averaged_over_the_thresholds_of_coco(
    tmp_path, monkeypatch, pixels: int, wanted: float
):
    """IoU 0.5 to 0.95 of the masks with the highest predicted IoU."""
    Image.fromarray(np.zeros((1, 40, 3), np.uint8)).save(tmp_path / "1.png")
    truth = pool.coco([{"id": 1, "file_name": "1.png"}], [pool.annotation(1, row(20))])
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    masks = ((row(pixels), 0.9), (row(3), 0.8), (row(20), 0.1))
    records = [{"segmentation": each, "predicted_iou": iou} for each, iou in masks[::-1]]
    generator = PLAN.generator(nano.sam("sam_nano"))
    monkeypatch.setattr(generator, "generate", lambda picture: records)
    assert automatic_masks.recall(generator, tmp_path / "truth.json", 2) == wanted
    assert automatic_masks.recall(generator, tmp_path / "truth.json", 3) == 1


def test_parts_are_apart_and_follow_the_seed():
    source = sources.open_source(ScenesConfig(scenes=20))
    counts = {"labelled": 3, "heldout": 5}
    parts = {name: [*indices] for name, (_, indices) in pool.split(source, counts, 0).items()}
    assert {name: len(part) for name, part in parts.items()} == {**counts, "unlabelled": 12}
    assert sorted(i for part in parts.values() for i in part) == [*range(20)]
    again = pool.split(source, counts, 0)
    assert [*again["heldout"][1]] == parts["heldout"]
    assert [*pool.split(source, counts, 1)["heldout"][1]] != parts["heldout"]


def test_the_verdict_is_about_the_first_and_the_last_round():
    rounds = [
        {"round": i, "box_miou": 0.6 + 0.01 * i, "point_miou": 0.5 + 0.02 * i, "AR@10": 0.3}
        for i in range(3)
    ]
    result = {"rounds": rounds, "rises": alternation.rises(rounds)}
    assert alternation.verdict(result) == (
        "quality rises from round 0 to round 2: box +0.020, one point +0.040, AR@10 +0.000"
    )
    rounds[-1]["box_miou"] = 0.6
    assert not alternation.rises(rounds)
    result = {"rounds": rounds, "rises": False}
    assert alternation.verdict(result).startswith("quality does not rise")
