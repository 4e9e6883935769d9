"""Which trials a design takes: teachers before pupils, seeds and scenes that choose kept apart."""

import dataclasses
import itertools

import pytest

from esam_jax.errors import ConfigError
from esam_jax.study import arms
from esam_jax.study.arms import ARMS, FRAMEWORKS
from esam_jax.study.design import CHOOSING, PRESETS, SCENES, Design, Trial, first_scene, needs


def test_every_arm_of_the_paper_is_there():
    assert {*FRAMEWORKS} == {"sami", "mae", "dmae", "regress", "supervised", "scratch"}
    ablations = {name for name, arm in ARMS.items() if arm.ablation}
    assert ablations == {
        *("sami_cosine", "sami_mask_50", "sami_mask_85"),
        *("sami_all_tokens", "sami_masked_loss", "sami_classifier"),
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_nothing_comes_before_what_it_needs(preset: str):
    listed = PRESETS[preset].trials()
    assert len(set(listed)) == len(listed)
    for place, trial in enumerate(listed):
        assert {*needs(trial)} <= {*listed[:place]}
    assert len({trial.folder for trial in listed}) == len(listed)


def test_a_teacher_is_trained_though_it_is_not_compared():
    design = Design(arms=("dmae", "sami_classifier"), seeds=(3,), budgets=(4,))
    trained = [each.arm for each in design.trials() if each.kind == "pretraining"]
    assert trained == ["mae", "dmae", "supervised", "sami_classifier"]
    assert {each.arm for each in design.cells()} == {"dmae", "sami_classifier"}
    assert needs(Trial(3, "dmae", "pretraining")) == (Trial(3, "mae", "pretraining"),)
    assert needs(Trial(3, "scratch", "prompted", 4)) == ()


def test_no_two_seeds_share_a_scene():
    seeds = (0, 1, 2, CHOOSING - 1, CHOOSING, CHOOSING + 1)
    ranges = [range(first_scene(seed), first_scene(seed) + SCENES) for seed in seeds]
    for one, other in itertools.pairwise(ranges):
        assert one.stop <= other.start


def test_rates_are_chosen_with_seeds_that_are_not_reported():
    for name, design in PRESETS.items():
        choosing = {seed >= CHOOSING for seed in design.seeds}
        assert choosing == {name == "choose"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seeds": (1, CHOOSING)}, "chose the rates"),
        ({"seeds": ()}, "seeds is empty"),
        ({"seeds": (-1,)}, "from 0"),
        ({"budgets": (40, 40)}, "each counts once"),
        ({"budgets": (0,)}, "budgets has 0"),
        ({"budgets": ()}, "nothing is measured"),
        ({"labelled": (0,)}, "labelled has 0"),
        ({"labelled": (16, 20_001)}, "labelled has 20001, but a seed has 20000 scenes"),
        ({"classified": 20_001}, "classified has 20001, but a seed has 20000 scenes"),
        ({"images": 0}, "images has 0"),
        ({"images": 20_001}, "images has 20001, but a seed has 20000 scenes"),
        ({"arms": ("simae",)}, "choose among sami"),
        ({"arms": ("sami,rate=fast",)}, "must be a number above 0"),
        ({"arms": ("scratch,rate=1e-3",)}, "fine=RATE"),
        ({"arms": ("sami,speed=1",)}, "rate=RATE"),
        ({"unlabelled": "pictures"}, "name pictures with masks"),
        ({"data": "pictures", "classified": 10}, "of procedural scenes alone"),
        (
            {"data": "pictures", "arms": ("sami", "supervised", "sami_classifier")},
            "arms names supervised, sami_classifier, but classes",
        ),
    ],
)
def test_a_design_that_means_nothing_is_refused(change: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(PRESETS["first"], **change)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_be_run_on_pictures_of_ones_own(preset: str):
    """Less what takes the classes of scenes."""
    design = dataclasses.replace(PRESETS[preset].without_classes(), data="pictures")
    left = {*PRESETS[preset].arms} - {*design.arms}
    assert {arm.partition(",")[0] for arm in left} <= {"supervised", "sami_classifier"}
    assert design.classified is None and "sami" in design.arms


def test_other_rates_make_another_arm():
    arm = arms.named("sami_cosine,rate=4e-3,fine=1e-3")
    plain = ARMS["sami_cosine"]
    assert arm.changes == (*plain.changes, ("optim.peak_lr", 4e-3))
    assert arm.fine_tuning_lr == 1e-3 and arm.title == "cosine loss, rate=4e-3, fine=1e-3"
    assert arms.named("sami") == ARMS["sami"]
