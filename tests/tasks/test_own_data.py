"""Values that follow one's own model and pictures: by rule, kept if given, the same on resuming."""

import dataclasses
import json
import warnings

import numpy as np
import pytest
from helpers import nano
from PIL import Image

from esam_jax import configs
from esam_jax.cli import run_keys
from esam_jax.config import CocoConfig, MixtureConfig, RunConfig, ScenesConfig
from esam_jax.convert import model_folder
from esam_jax.data import sources
from esam_jax.errors import CheckpointError, ConfigError, DataError
from esam_jax.models import named
from esam_jax.runs import config_file
from esam_jax.tasks import own_data

TEACHER = "quickstart_teacher"


@pytest.fixture
def pictures(tmp_path):
    """Twenty pictures of 30 x 40 with two rectangles each, as a COCO json."""
    return coco(tmp_path / "mine", 20)


def coco(folder, count, seed=0):
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    images, objects = [], []
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (30, 40, 3), np.uint8)).save(
            folder / "images" / f"p{i:03d}.png"
        )
        images.append({"id": i, "file_name": f"p{i:03d}.png", "height": 30, "width": 40})
        for x in (3, 22):
            box = [x, 5, x + 12, 5, x + 12, 20, x, 20]
            objects.append({"image_id": i, "id": len(objects) + 1, "segmentation": [box]})
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": objects}))
    return str(path)


def fitted(workdir, *keys):
    config = run_keys.parse(configs.load("finetune"), keys, prog="esam train finetune")
    return own_data.fitted(config, run_keys.named(keys), config_file.stored(workdir))


def start(workdir, config):
    workdir.mkdir(exist_ok=True)
    config_file.store(config, workdir, 0)


def keys(pictures, *more):
    return ("--data.source.path", pictures, "--task.init-from", TEACHER, *more)


def test_everything_follows_model_and_pictures(pictures, tmp_path):
    found = fitted(tmp_path / "run", *keys(pictures))
    assert (found.task.model, found.data.view.image_px, found.data.view.fit) == (
        "sam_nano",
        64,
        "pad",
    )
    assert found.data.source == CocoConfig(path=pictures, part="train", heldout=6)
    assert found.evaluate.source == CocoConfig(path=pictures, part="heldout", heldout=6)
    both = [len(sources.open_source(x)) for x in (found.data.source, found.evaluate.source)]
    assert both == [14, 6]
    # The tests run on eight pretend devices, or one: a batch of 8 in either case.
    assert (found.batch, found.steps) == (8, 374)  # 100 * 14 ** 0.5
    assert found.optim.warmup_steps == 37
    assert found.evaluate.every_steps == found.save.every_steps == 37
    assert found.optim.peak_lr == 1e-4 and found.optim.encoder_rate == 0.1
    assert found.compute.dtype == "float32" and found.accumulate == 1
    assert found.data.view.jitter == (0.5, 2.0) and found.data.view.colour == 0.2
    assert found.task.answers in ("single", "candidates")


def test_what_is_given_stays(pictures, tmp_path):
    given = (
        "--steps",
        "900",
        "--optim.peak-lr=1e-4",
        "--data.view.colour",
        "0",
        "--task.clicks",
        "1",
    )
    found = fitted(tmp_path / "run", *keys(pictures, *given))
    assert found.steps == 900  # as the shipped config has it, but named
    assert found.optim.warmup_steps == 90 and found.evaluate.every_steps == 90
    assert found.data.view.colour == 0 and found.data.view.jitter == (0.5, 2.0)
    assert found.task.clicks == 1


@pytest.mark.parametrize(
    "given", [("--steps", "5"), ("--evaluate.every-steps", "7"), ("--batch", "6")]
)
def test_no_value_contradicts_one_that_only_holds_a_place(given, pictures, tmp_path):
    found = fitted(tmp_path / "run", *keys(pictures, *given))
    assert found.optim.warmup_steps < found.steps
    assert found.evaluate.every_steps == found.save.every_steps
    assert found.batch % found.accumulate == 0


def test_pictures_to_measure_on_may_be_given(pictures, tmp_path):
    held = coco(tmp_path / "held", 5, seed=1)  # other pictures of the same names
    more = ("--evaluate.source.path", held, "--evaluate.source.crowds", "use")
    found = fitted(tmp_path / "run", *keys(pictures, *more))
    assert found.data.source == CocoConfig(path=pictures)
    assert found.evaluate.source == CocoConfig(path=held, crowds="use")
    assert found.steps == own_data.length(20, 8)


def test_pictures_that_are_trained_on_and_measured_are_pointed_out(pictures, tmp_path):
    held = coco(tmp_path / "held", 5)
    with pytest.warns(UserWarning, match=r"5 of the 5 pictures .*p000\.png is the same picture"):
        fitted(tmp_path / "run", *keys(pictures, "--evaluate.source.path", held))
    for file in (tmp_path / "held" / "images").iterdir():
        file.write_bytes(b"broken")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(tmp_path / "run", *keys(pictures, "--evaluate.source.path", held))


def test_one_picture_cannot_be_trained_on_and_measured(tmp_path):
    with pytest.raises(DataError, match=r"1 picture, but .*evaluate\.source\.path"):
        fitted(tmp_path / "run", *keys(coco(tmp_path / "one", 1)))


def test_choices_of_the_data_hold_for_both_parts(pictures, tmp_path):
    found = fitted(tmp_path / "run", *keys(pictures, "--data.source.crowds", "use"))
    assert found.data.source.crowds == found.evaluate.source.crowds == "use"
    found = fitted(
        tmp_path / "run",
        *("--data.source.heldout", "3", "--data.source.part", "train"),
        *keys(pictures),
    )
    assert found.data.source.heldout == found.evaluate.source.heldout == 3


@pytest.mark.parametrize(("pictures", "held"), [(3, 1), (14, 4), (20, 6), (100, 20), (9000, 500)])
def test_share_held_out(pictures, held):
    assert own_data.held_out(pictures) == held


def test_rates_by_what_is_trained(pictures, tmp_path):
    rates = {}
    for train in ("all", "decoder", "lora"):
        more = ("--task.train", train, "--batch", "32")
        found = fitted(tmp_path / train, *keys(pictures, *more))
        rates[train] = found.optim.peak_lr, found.optim.encoder_rate
        assert found.steps == 94  # a quarter of those with 8
    assert rates["all"] == pytest.approx((2e-4, 0.1))
    assert rates["decoder"] == pytest.approx((4e-4, 1.0))
    assert rates["lora"] == pytest.approx((1e-3, 1.0))


def test_many_pictures_are_not_augmented(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(own_data, "SMALL_SET", 14)
    found = fitted(tmp_path / "run", *keys(pictures)).data.view
    assert (found.jitter, found.colour, found.flip) == (None, 0.0, "none")


def test_a_started_run_keeps_its_values(pictures, tmp_path):
    first = fitted(tmp_path / "run", *keys(pictures))
    start(tmp_path / "run", first)
    moved = coco(tmp_path / "moved", 40)  # more pictures, elsewhere: nothing is computed again
    again = fitted(tmp_path / "run", *keys(moved))
    assert again.data.source == dataclasses.replace(first.data.source, path=moved)
    assert again.evaluate.source == dataclasses.replace(first.evaluate.source, path=moved)
    rest = {"data": first.data, "evaluate": first.evaluate}
    assert dataclasses.replace(again, **rest) == first
    longer = fitted(tmp_path / "run", *keys(pictures), "--steps", "500")
    assert (longer.steps, longer.optim.warmup_steps) == (500, 37)


def test_a_config_of_ones_own_keeps_what_it_changes(pictures, tmp_path):
    shipped = configs.load("finetune")
    data = dataclasses.replace(shipped.data, source=CocoConfig(path=pictures))
    task = dataclasses.replace(shipped.task, init_from=TEACHER, repeats=2)
    mine: RunConfig = dataclasses.replace(shipped, name="mine", data=data, task=task, seed=4)
    found = own_data.fitted(mine, ())
    assert (found.name, found.seed, found.task.repeats) == ("mine", 4, 2)
    assert found.steps == 374 and found.data.source.heldout == 6


def folder_of(tmp_path, name, untrained=()):
    config = named.sam(name)
    params = nano.params(config)
    model_folder.write(tmp_path / name, config, params, source="test", untrained=untrained)
    return str(tmp_path / name)


def test_a_network_may_be_extended(pictures, tmp_path):
    path = folder_of(tmp_path, "efficientsam_nano")
    found = fitted(tmp_path / "run", *keys(pictures), "--task.init-from", path)
    assert found.task.model == "efficientsam_nano" and found.data.view.fit == "stretch"
    assert (found.task.click_labels, found.task.repeats) == ("foreground", 0)
    assert found.task.answers == "candidates"
    more = ("--task.init-from", path, "--task.model", "efficientsam_nano_extended")
    found = fitted(tmp_path / "run", *keys(pictures), *more)
    assert found.task.model == "efficientsam_nano_extended"
    assert (found.task.click_labels, found.task.repeats) == ("both", 1)


@pytest.mark.parametrize("train", ["all", "decoder", "lora"])
def test_a_mobile_sam_is_tuned_by_the_same_command(train, pictures, tmp_path):
    path = folder_of(tmp_path, "mobile_sam_nano")
    more = ("--task.init-from", path, "--task.train", train)
    found = fitted(tmp_path / "run", *keys(pictures), *more)
    assert (found.task.model, found.task.train) == ("mobile_sam_nano", train)
    assert (found.data.view.fit, found.task.batch_norm) == ("pad", "stored")


def test_an_encoder_that_answers_no_prompts_is_no_start(pictures, tmp_path):
    path = folder_of(tmp_path, "efficientsam_nano", ("encoder/neck", "prompt", "decoder"))
    with pytest.raises(CheckpointError, match="answers no prompts yet"):
        fitted(tmp_path / "run", *keys(pictures), "--task.init-from", path)


def test_scenes_have_parts_of_their_own(tmp_path):
    found = fitted(tmp_path / "run", "--data.source.kind", "scenes", "--task.init-from", TEACHER)
    assert isinstance(found.data.source, ScenesConfig) and found.data.source.split == "train"
    assert found.evaluate.source == dataclasses.replace(found.data.source, split="heldout")


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        (("--task.init-from", TEACHER), ConfigError, r"data\.source\.path is not given"),
        (("--data.source.path", "{}"), ConfigError, r"task\.init_from is not given"),
        (
            ("--data.source.path", "{}.bare", "--task.init-from", TEACHER),
            DataError,
            "pictures without masks",
        ),
    ],
)
def test_what_is_missing(given, error, words, pictures, tmp_path):
    bare = tmp_path / "mine" / "instances.json.bare"
    bare.mkdir()
    (bare / "p.png").write_bytes(b"")
    with pytest.raises(error, match=words):
        fitted(tmp_path / "run", *(each.format(pictures) for each in given))


def test_a_kind_that_is_named_holds_out_as_many_as_one_that_is_found(pictures, tmp_path):
    found = fitted(tmp_path / "run", *keys(pictures, "--data.source.kind", "coco"))
    assert found.data.source == CocoConfig(path=pictures, part="train", heldout=6)


def test_a_mixture_is_followed_and_its_distinct_pictures_are_held_out(pictures, tmp_path):
    """Ten pictures three times and twenty once are thirty pictures, of which six are held out."""
    more = coco(tmp_path / "more", 10, seed=1)
    paths = ("--data.source.paths", pictures, more, "--data.source.times", "1", "3")
    more = ("--data.source.kind", "mixture", *paths, "--task.init-from", TEACHER)
    found = fitted(tmp_path / "run", *more)
    train, held = found.data.source, found.evaluate.source
    assert isinstance(train, MixtureConfig) and train.times == held.times == (1, 3)
    assert (train.part, held.part, train.heldout, held.heldout) == ("train", "heldout", 6, 6)
    opened = sources.open_source(train), sources.open_source(held)
    trained, measured = ({each.name(i) for i in range(len(each))} for each in opened)
    assert len(opened[1]) == len(measured) == 6
    assert not {name.split("/", 1)[1] for name in trained if name.startswith("copy")} & measured
    assert not trained & measured and len(trained) == len(opened[0])
    few = ("--data.source.paths", coco(tmp_path / "one", 1), "--data.source.times", "9")
    with pytest.raises(DataError, match=r"one/instances\.json holds 1 picture, but some are"):
        fitted(tmp_path / "run", "--data.source.kind", "mixture", *few, *more[-2:])
