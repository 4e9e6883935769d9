"""Every config comes back from its JSON, as do those of earlier releases; the rest is refused."""

import dataclasses
import json as text

import pytest

from esam_jax import configs
from esam_jax.config import (
    CocoConfig,
    ImageFolderConfig,
    MaeConfig,
    ModelConfig,
    RunConfig,
    SaveConfig,
    ScenesConfig,
    VitConfig,
    json,
)
from esam_jax.errors import ConfigError
from esam_jax.models import named

MODELS = {name: named.model(name) for name in named.names()}


def changed(tree, path, value):
    """A copy with the value at `path` in its place."""
    key, *rest = path
    return tree | {key: changed(tree[key], rest, value) if rest else value}


@pytest.mark.parametrize("name", configs.names())
def test_a_run_comes_back(name):
    cfg = configs.load(name)
    plain = text.loads(text.dumps(json.to_json(cfg)))
    assert json.from_json(RunConfig, plain, "run") == cfg


@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back(name):
    plain = text.loads(text.dumps(json.to_json(MODELS[name])))
    assert json.from_json(ModelConfig, plain, "model") == MODELS[name]


def test_the_kind_of_each_member_is_written_first():
    written = json.to_json(configs.load("segment_ti"))
    kinds = [written["task"], written["data"]["source"], written["data"]["view"]]
    assert [next(iter(each.items())) for each in kinds] == [
        ("kind", "segment"),
        ("kind", "sa1b"),
        ("kind", "prompted"),
    ]
    assert json.to_json(MODELS["mae_b"])["kind"] == "mae"
    assert "kind" not in json.to_json(MODELS["sam_b"])


def test_a_field_that_an_earlier_release_did_not_have_gets_its_default():
    written = json.to_json(configs.load("sami_ti"))
    del written["task"]["init_from"], written["save"]
    read = json.from_json(RunConfig, written, "run")
    assert read.task.init_from is None and read.save == SaveConfig()
    del written["steps"]
    with pytest.raises(ConfigError, match=r"^run lacks steps: use the release that wrote it$"):
        json.from_json(RunConfig, written, "run")


# ------------------------------------------------------------------------- earlier releases

OLD_SOURCE = {"path": "pictures", "split": "train", "scenes": 20_000, "scene_px": 64}


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("scenes", ScenesConfig(split="heldout")),
        ("image_folder", ImageFolderConfig(path="pictures")),
        ("coco", CocoConfig(path="pictures")),
    ],
)
def test_one_dataclass_for_all_sources_is_still_read(kind, wanted):
    cfg = configs.load("sami_ti")
    old = OLD_SOURCE | {"kind": kind, "split": "heldout"}
    written = changed(json.to_json(cfg), ("data", "source"), old)
    data = dataclasses.replace(cfg.data, source=wanted)
    assert json.from_json(RunConfig, written, "run") == dataclasses.replace(cfg, data=data)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("save_every_steps",), 100),
        (("keep_checkpoints",), 1),
        (("data", "prefetch_batches"), 7),
        (("optim", "eps"), 1e-8),
        (("guard", "spike_horizon_steps"), 100),
        (("guard", "max_rollbacks"), 3),
        (("task", "decoder", "mlp_ratio"), 4),
    ],
)
def test_a_key_that_is_gone_is_dropped(path, value):
    cfg = configs.load("sami_ti")
    written = changed(json.to_json(cfg), path, value)
    assert json.from_json(RunConfig, written, "run") == cfg


@pytest.mark.parametrize(
    ("path", "value", "wanted"),
    [
        (("optim", "eps"), 1e-6, "1e-08"),
        (("guard", "spike_horizon_steps"), 10, "100"),
        (("task", "decoder", "mlp_ratio"), 2, "4"),
        (("task", "decoder", "mlp_ratio"), 4.0, "4"),
    ],
)
def test_a_key_that_is_constant_now_is_refused_with_another_value(path, value, wanted):
    written = changed(json.to_json(configs.load("sami_ti")), path, value)
    with pytest.raises(ConfigError) as error:
        json.from_json(RunConfig, written, "run")
    where = ".".join(("run", *path))
    assert str(error.value) == (
        f"{where} is {value!r}, but is always {wanted} here: use the release that wrote it"
    )


@pytest.mark.parametrize("name", ["efficientsam_ti", "mobile_sam", "sam_nano"])
def test_a_model_of_an_earlier_release_is_read(name):
    config = MODELS[name]
    written = json.to_json(config)
    written["encoder"]["mlp_ratio"] = 4
    written["decoder"] |= {"point_slots": 6, "mask_channels": 16}
    assert json.from_json(ModelConfig, written, "model") == config
    written["decoder"]["mask_channels"] += 1
    with pytest.raises(ConfigError, match=r"^model\.decoder\.mask_channels is 17, but is always "):
        json.from_json(ModelConfig, written, "model")


# ------------------------------------------------------------------------------ hostile values


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("steps",), "many", "run.steps is 'many', but must be an integer"),
        (("steps",), True, "run.steps is True, but must be an integer"),
        (("steps",), 0, "run.steps is 0, but must be at least 1"),
        (("optim", "peak_lr"), True, "run.optim.peak_lr is True, but must be a number"),
        (("optim", "peak_lr"), float("nan"), "run.optim.peak_lr is nan, but must be above 0"),
        (
            ("task", "kind"),
            "other",
            "run.task.kind is 'other', but must be one of sami, mae",
        ),
        (("task", "kind"), ["sami"], "run.task.kind is .* but must be one of"),
        (("task",), [], "run.task.kind is None"),
        (("optim", "unheard"), 1, "run.optim has unknown unheard"),
        (("optim", "__class__"), 1, "run.optim has unknown __class__"),
        (("optim", "across"), 1, "run.optim has unknown across"),
        (("optim", "clip_norm"), 10**400, "run.optim.clip_norm is 10+"),
        (("data",), None, "run.data is None, but must be a JSON object"),
        (("trackers",), ["tensorboard", "other"], r"run.trackers\[1\] is 'other'"),
        (("trackers",), "wandb", "run.trackers is 'wandb', but must be a list"),
        (("data", "view", "image_px"), 10, "run.data.view.image_px is 10, but must be a multiple"),
        (("accumulate",), 3, "run.batch is 128, but must divide into accumulate=3"),
    ],
)
def test_what_no_release_wrote_in_a_run_is_refused(path, value, message):
    written = changed(json.to_json(configs.load("segment_ti")), path, value)
    with pytest.raises(ConfigError, match=f"^{message}"):
        json.from_json(RunConfig, written, "run")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("encoder", "windows"), [7, 7, 10**9, 7], "windows is .* each must be from 1 to 16384"),
        (("encoder", "windows"), [7, 7, 0, 7], "windows is .* each must be from 1 to"),
        (("encoder", "depths"), [2, 2, 6.0, 2], r"depths\[2\] is 6.0, but must be an integer"),
        (("encoder", "depths"), [2, 2, 6], "depths is .* one value for each"),
        (("encoder", "widths"), 64, "widths is 64, but must be a list"),
        (("encoder", "widths"), [], r"widths is \(\), but must not be empty"),
        (("decoder", "width"), 10**9, "width is 1000000000, but must be from 1 to 16384"),
        (("decoder", "heads"), 0, "heads is 0, but must be from 1 to"),
    ],
)
def test_hostile_sizes_of_a_model_are_refused(path, value, message):
    written = changed(json.to_json(MODELS["mobile_sam"]), path, value)
    with pytest.raises(ConfigError, match=rf"^model\.{path[0]}\.{message}"):
        json.from_json(ModelConfig, written, "model")


# --------------------------------------------------------------------------------- differences


def test_differences_walk_both_trees():
    old = {"task": {"a": 1, "b": [1, 2]}, "gone": 3, "same": {"x": None}}
    new = {"task": {"a": 1, "b": [1, 3]}, "new": "x", "same": {"x": None}}
    assert list(json.differences(old, new)) == [
        ("task.b", [1, 2], [1, 3]),
        ("new", None, "x"),
        ("gone", 3, None),
    ]
    assert list(json.differences(new, new)) == []


def test_of_two_kinds_the_kinds_alone_differ():
    one, other = map(json.to_json, (ScenesConfig(), CocoConfig(path="x")))
    assert list(json.differences({"s": one}, {"s": other})) == [("s.kind", "scenes", "coco")]
    sam, mae = MODELS["sam_b"], MaeConfig(encoder=VitConfig(width=8, heads=2))
    assert [*json.differences(*map(json.to_json, (sam, mae)))] == [("kind", None, "mae")]


@pytest.mark.parametrize(
    ("path", "may"),
    [
        ("name", True),
        ("save.best", True),
        ("evaluate", True),
        ("evaluate.source.kind", True),
        ("data.source.path", True),
        ("data.source.split", False),
        ("data.source.kind", False),
        ("compute.remat", True),
        ("compute.dtype", False),
        ("guard.hang_seconds", True),
        ("guard.spike", False),
        ("task.init_from", True),
        ("task.teacher.weights", True),
        ("task.teacher.model", False),
        ("optim.peak_lr", False),
        ("steps", False),
        ("nothing.of.this", False),
    ],
)
def test_what_may_differ_on_resume_stands_beside_the_field(path, may):
    assert json.may_differ(RunConfig, path) is may
