"""The runs of a study: the same arithmetic, the same pictures, the same start."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from esam_jax.config import LabelMapsConfig, ScenesConfig
from esam_jax.data import sources
from esam_jax.errors import ConfigError, DataError
from esam_jax.study import material, trials
from esam_jax.study.design import PRESETS, Design, Trial, first_scene
from esam_jax.tasks import operations
from esam_jax.train import loop

DESIGN = PRESETS["full"]
PUPILS = ("mae", "sami_mask_50")


def of(arm: str, kind: str, number: int = 0, seed: int = 1, design=DESIGN):
    return trials.config(Trial(seed, arm, kind, number), design, Path("study"))


@pytest.mark.parametrize("arm", PUPILS)
def test_every_pretraining_costs_what_samis_does_within_a_step(arm: str):
    sami, other = of("sami", "pretraining"), of(arm, "pretraining")
    spent = [cfg.steps * cfg.batch * operations.per_example(cfg) for cfg in (sami, other)]
    assert sami.steps == DESIGN.pretraining_steps
    assert abs(spent[0] - spent[1]) <= other.batch * operations.per_example(other) / 2
    assert other.steps != sami.steps  # none of these costs the same in a step


def test_arms_start_alike_and_see_the_same_in_the_same_order():
    sami, mae = of("sami", "pretraining"), of("mae", "pretraining")
    assert (sami.seed, sami.data.source, sami.batch) == (mae.seed, mae.data.source, mae.batch)
    tuned = [of(arm, "prompted", 80) for arm in ("sami", "mae", "scratch")]
    starts = [cfg.task.init_from for cfg in tuned]
    assert starts == ["study/seed_1/sami/pretraining", "study/seed_1/mae/pretraining", None]
    same = [
        dataclasses.replace(cfg, task=dataclasses.replace(cfg.task, init_from=None))
        for cfg in tuned
    ]
    assert same[0] == same[1] == same[2]
    assert same[0].steps == 80 and same[0].optim.warmup_steps == 24  # a schedule of its own


def test_labelled_scenes_are_the_first_of_the_seed():
    few = of("sami", "labelled", 16)
    assert few.data.source == ScenesConfig(first=first_scene(1), scenes=16)
    assert few.steps == DESIGN.labelled_steps
    assert of("sami", "pretraining").data.source.scenes == 20_000  # unlabelled: all
    assert of("sami", "labelled", 16, seed=2).data.source.first == first_scene(2)
    held = material.held_out(DESIGN, 2)
    assert held == ScenesConfig(split="heldout", first=first_scene(2), scenes=20_000)


def test_classifiers_are_measured_on_other_scenes():
    cfg = of("mae", "classified", 1000)
    assert cfg.task.kind == "classify" and cfg.data.source.scenes == 1000
    assert cfg.evaluate.source.split == "heldout"


@pytest.mark.slow
def test_a_probe_reads_frozen_features_of_scenes(tmp_path):
    """Six classes, features of random weights; another seed draws other ones and other scenes."""
    design = dataclasses.replace(DESIGN, images=20)
    found = [trials.probe(Trial(s, "scratch", "probed", 300), design, tmp_path) for s in (0, 1)]
    assert all(each["flops"] == 0 and 0.1 < each["top1"] < 1 for each in found)
    assert found[0] != found[1]


def test_a_teacher_is_that_of_the_same_seed():
    assert of("dmae", "pretraining").task.align.weights == "study/seed_1/mae/pretraining"
    teacher = of("sami_classifier", "pretraining").task.teacher
    assert teacher.weights == "study/seed_1/supervised/pretraining" and teacher.model == "mae_nano"
    assert of("sami_cosine", "pretraining").task.loss == "cosine"
    other = dataclasses.replace(DESIGN, teacher="runs/mine")
    cfg = of("sami", "prompted", 40, design=other)
    assert cfg.task.decoder_from == "runs/mine"
    assert of("sami", "pretraining", design=other).task.teacher.weights == "runs/mine"


def test_rates_are_those_of_the_arm():
    assert of("sami,rate=4e-3", "pretraining").optim.peak_lr == 4e-3
    assert of("sami,fine=5e-4", "prompted", 40).optim.peak_lr == 5e-4


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("pretraining", {"peak_lr": 2e-3}),
        ("prompted", {"peak_lr": 2e-3, "box_miou": 0.5}),
        ("classified", {"peak_lr": 2e-3, "top1": 0.25}),
    ],
)
def test_what_is_measured_of_a_run(tmp_path, monkeypatch, kind: str, found: dict[str, float]):
    """Arithmetic is that of all pictures of all updates, as the run has counted it; no run after
    that."""
    began = []

    def run(cfg, folder, progress):
        began.append(cfg)
        folder.mkdir(parents=True)
        line = {"step": 0, "event": "start", "flops_per_example": 7}
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        return {"top1": 0.25}

    monkeypatch.setattr(loop, "run", run)
    monkeypatch.setattr(trials, "measure", lambda *_: {"box_miou": 0.5})
    trial = Trial(1, "supervised", kind, 0 if kind == "pretraining" else 40)
    first = trials.run(trial, DESIGN, tmp_path)
    cfg = began[0]
    counted = {"steps": cfg.steps, "batch": cfg.batch, "flops": cfg.steps * cfg.batch * 7}
    assert first == counted | found and cfg.batch > 1
    assert trials.run(trial, DESIGN, tmp_path) == first and len(began) == 1
    assert trials.finished(trial, tmp_path) == first


# -------------------------------------------------------------------------------- own pictures


@pytest.fixture
def own(tmp_path) -> Path:
    """Thirty pictures with one object each."""
    for kind in ("images", "instances"):
        (tmp_path / "own" / kind).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(30):
        pixels = rng.integers(0, 256, (16, 20, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "own" / "images" / f"{i}.png")
        mask = np.zeros((16, 20), np.uint8)
        mask[2:9, 3 : 6 + i % 10] = 1
        Image.fromarray(mask).save(tmp_path / "own" / "instances" / f"{i}.png")
    return tmp_path / "own"


def of_own(path: Path, **changes: Any) -> Design:
    """Everything that can be compared on pictures of one's own."""
    changes = {"data": str(path), "labelled": (), **changes}
    return dataclasses.replace(DESIGN.without_classes(), **changes)


def names(config) -> set[str]:
    source = sources.open_source(config)
    return {source.name(i) for i in range(len(source))}


def test_own_pictures_are_held_out_from_all_training(own, tmp_path):
    design = of_own(own)
    held = names(material.held_out(design, 0))
    everything = names(material.labelled(design, 0, None, tmp_path))
    few = [names(material.labelled(design, seed, 7, tmp_path)) for seed in (0, 1)]
    assert held == names(material.held_out(design, 1)) and len(held) == 6
    assert len(everything) == 24 and not held & everything
    assert all(len(each) == 7 and each < everything for each in few) and few[0] != few[1]
    assert few[0] == names(material.labelled(design, 0, 7, tmp_path))
    assert names(material.unlabelled(design, 0)) == everything
    with pytest.raises(ConfigError, match=r"labelled has 25, but .* leaves 24 pictures"):
        material.labelled(design, 0, 25, tmp_path)
    with pytest.raises(ConfigError, match=r"labelled has 25, but .* leaves 24 pictures"):
        material.check(dataclasses.replace(design, labelled=(7, 25)))  # before anything is trained


def test_too_few_pictures_for_labelled_are_reported_before_training(own):
    design = of_own(own, labelled=(4, 24))
    material.check(design)
    with pytest.raises(ConfigError, match=r"labelled has 25, but .* leaves 24 pictures"):
        material.check(dataclasses.replace(design, labelled=(4, 25)))


def test_unlabelled_pictures_may_be_others(own, tmp_path):
    design = of_own(own, unlabelled=str(own / "images"))
    material.check(design)
    assert isinstance(material.held_out(design, 0), LabelMapsConfig)
    assert len(names(material.unlabelled(design, 0))) == 30


@pytest.mark.parametrize(
    ("count", "data", "error", "words"),
    [
        (25, None, DataError, "holds 5 pictures, .* give 10 or more"),
        (0, "images", ConfigError, "masks"),
        (0, "scenes", ConfigError, "leave it out"),
    ],
)
def test_data_that_cannot_be_compared_on_is_refused(own, count, data, error, words):
    for file in sorted((own / "images").iterdir())[:count]:
        file.unlink()
        (own / "instances" / file.name).unlink()
    path = {None: own, "images": own / "images", "scenes": Path("scenes")}[data]
    design = of_own(path)
    with pytest.raises(error, match=words):
        material.check(design)
