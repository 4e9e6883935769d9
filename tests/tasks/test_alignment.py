"""DMAE's alignment: its loss against its original and by hand, its teacher, and what is refused."""

import dataclasses
import functools
import pathlib

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import small_mae, tiny, unrolled

from esam_jax import configs, tasks
from esam_jax.cli import run_keys
from esam_jax.config import AlignConfig, ClassifierConfig, ComputeConfig, MaeConfig, VitConfig
from esam_jax.convert import model_folder
from esam_jax.errors import CheckpointError, ConfigError
from esam_jax.models import flops, named
from esam_jax.models.pretrain.mae import Mae
from esam_jax.ops import images
from esam_jax.tasks import operations
from esam_jax.tasks.alignment import Alignment
from esam_jax.tasks.task import Start
from esam_jax.train import features as stored_features

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
NAME, WIDE, LARGE = small_mae.NAME, small_mae.WIDE, small_mae.LARGE
RANDOM = AlignConfig(model=WIDE, weights="random")


@pytest.fixture(autouse=True)
def networks(monkeypatch):
    small_mae.add(monkeypatch)


def config(**align):
    return small_mae.config(align=dataclasses.replace(RANDOM, **align))


def student():
    """The student's parameters, its linear map included."""
    rng = np.random.default_rng(2)
    head = {"kernel": rng.normal(0, 0.3, (12, 20)), "bias": rng.normal(0, 0.1, 20)}
    head = {name: jnp.asarray(x, jnp.float32) for name, x in head.items()}
    return {**small_mae.params(), "align": {"head": head}}


def teacher(blocks=3):
    """What is run of the large one."""
    params = tiny.params(LARGE)
    names = {"patch_embed", "positions", *(f"block_{i:02d}" for i in range(blocks))}
    encoder = {name: x for name, x in params["encoder"].items() if name in names}
    return {"encoder": encoder, "class_token": params["class_token"]}


@functools.cache
def inside(network, blocks):
    """[class token, visible patches] after so many blocks, of a complete run of all blocks."""
    seen = {}

    def look(call, args, kwargs, context):
        out = call(*args, **kwargs)
        seen["/".join(context.module.path)] = out
        return out

    def run(params, pixels, visible):
        seen.clear()
        with nn.intercept_methods(look), unrolled.blocks():
            Mae(network).apply({"params": params}, pixels, visible, method="encode")
        return seen[f"encoder/block_{blocks - 1:02d}"]

    batch = small_mae.batch()
    params = tiny.params(dataclasses.replace(network, decoder=None))
    found = tiny.jit(run)(params, images.normalise(batch["image"]), batch["seen"])
    return np.asarray(found, np.float64)


def distances(blocks=3, teacher_blocks=3):
    """By hand: of features of length 1, their mean absolute difference, and to their mean."""
    head = student()["align"]["head"]
    found = inside(small_mae.SMALL, blocks) @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    wanted = inside(LARGE, teacher_blocks)
    mean = np.broadcast_to(wanted.mean((0, 1)), wanted.shape)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    return [np.abs(unit(x) - unit(wanted)).mean((1, 2)) for x in (found, mean)]


# ------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        ("unit_l1", "dmae_l1_normalised"),
        ("unit_mse", "dmae_l2_normalised"),
        ("l1", "plain_l1"),
        ("mse", "mse"),
        ("cosine", "one_minus_cosine"),
    ],
)
def test_losses_are_the_golden_ones(loss, name, monkeypatch):
    """Of the original's own features and linear map, the class token first."""
    case = np.load(GOLDEN / "distillation_a.npz")
    sizes = {"patch_px": 8, "image_px": 32, "pretrain_px": 32}
    wide = MaeConfig(encoder=VitConfig(width=40, heads=5, depth=2, **sizes))
    monkeypatch.setitem(named._BUILDERS, WIDE, lambda: wide)
    monkeypatch.setattr(Alignment, "_features", lambda *given: jnp.asarray(case["teacher"]))
    made = Alignment(
        dataclasses.replace(RANDOM, loss=loss),
        ComputeConfig(),
        VitConfig(width=24, heads=3, depth=2, **sizes),
        32,
        16,
    )
    params = {"head": {"kernel": jnp.asarray(case["weight"].T), "bias": jnp.asarray(case["bias"])}}
    pixels, visible = jnp.zeros((2, 32, 32, 3)), jnp.arange(32).reshape(2, 16) % 16
    found, _ = made.loss(params, {}, jnp.asarray(case["student"]), pixels, visible)
    assert found.shape == (2,)
    np.testing.assert_allclose(found.mean(), case[name], rtol=1e-6)


def test_loss_is_that_of_pixels_and_the_distance_from_the_teacher():
    alone = small_mae.loss(small_mae.config(), small_mae.params())
    out = small_mae.loss(config(weight=0.5), student(), {"align": teacher()})
    distance, of_mean = distances()
    np.testing.assert_allclose(out.metrics["pixel_loss"], alone.loss, rtol=1e-5)
    np.testing.assert_allclose(out.metrics["align_loss"], distance, rtol=3e-5)
    np.testing.assert_allclose(out.loss, alone.loss + 0.5 * distance, rtol=1e-5)
    baseline = alone.metrics["baseline_loss"] + 0.5 * of_mean
    np.testing.assert_allclose(out.metrics["baseline_loss"], baseline, rtol=1e-5)


def test_blocks_that_are_named():
    """The last of the student, whose output is that of all blocks, and the first of the teacher."""
    run = config(student_blocks=4, teacher_blocks=1)
    out = small_mae.loss(run, student(), {"align": teacher(1)})
    np.testing.assert_allclose(out.metrics["align_loss"], distances(4, 1)[0], rtol=3e-5)


def test_blocks_by_default_are_those_of_the_original():
    run = configs.load("dmae_b")
    task = tasks.build(run)
    frozen = task.frozen["align"].shapes()
    assert sorted(frozen["encoder"])[:18] == [f"block_{i:02d}" for i in range(18)]
    assert sorted(frozen["encoder"])[18:] == ["patch_embed", "positions"]
    made = Alignment(run.task.align, run.compute, named.model("mae_b").encoder, 224, 49)
    assert made.depth == 9


def test_gradients_reach_the_student_up_to_its_block_and_the_teacher_never():
    task, batch = tasks.build(config()), small_mae.batch()

    def distance(mine, frozen):
        return task.loss({NAME: mine}, frozen, batch).metrics["align_loss"].sum()

    gradient = jax.grad(distance, argnums=(0, 1))
    mine, frozen = tiny.jit(gradient)(student(), {"align": teacher()})
    assert not any(np.any(x) for x in jax.tree.leaves(frozen))
    moved = flax.traverse_util.flatten_dict(mine, sep="/")
    moved = {path for path, x in moved.items() if np.abs(x).max() > 0 and "key/bias" not in path}
    firsts = {path.removeprefix("encoder/").split("/")[0] for path in moved}
    blocks = {"block_00", "block_01", "block_02"}
    assert firsts == {"align", "class_token", "patch_embed", "positions", *blocks}


def test_the_model_left_behind_has_no_linear_map():
    (model,) = tasks.build(config()).models({NAME: student()}, Start()).values()
    assert model.config == small_mae.COMPLETE and "align" not in model.params
    jax.tree.map(np.testing.assert_array_equal, model.params, small_mae.params())


# ------------------------------------------------------------------------------------ its teacher


def test_weights_are_those_of_the_file_as_far_as_they_are_run(tmp_path):
    model_folder.write(tmp_path / "m", LARGE, tiny.params(LARGE), source="a test")
    part = tasks.build(config(weights=str(tmp_path / "m"))).frozen["align"]
    jax.tree.map(np.testing.assert_array_equal, part.read(), teacher())
    assert not part.drawn and part.key == "task.align"
    wanted = jax.tree.map(np.shape, teacher())
    assert jax.tree.map(lambda x: x.shape, part.shapes()) == wanted


def test_features_that_are_tried_are_those_of_a_quarter_of_the_patches():
    part = tasks.build(config()).frozen["align"]
    found = tiny.jit(part.features)(teacher(), small_mae.batch()["image"])
    assert found.shape == (3, 1, 5, 20) and np.ptp(found) > 0.1


def test_operations_are_those_of_a_quarter_of_the_patches():
    """Three blocks of the teacher on five tokens, once; the linear map three times."""
    align, rest = operations.parts(config())
    block = 5 * 2 * 20 * 12 * 20 + 4 * 5 * 5 * 20
    assert align.total == 4 * 2 * 192 * 20 + 3 * block and not align.trained
    (alone,) = operations.parts(small_mae.config())
    assert rest.forward == alone.forward + flops.linear(5, 12, 20)
    assert rest.total == 3 * rest.forward


def test_weights_that_are_missing_or_do_not_fit(tmp_path):
    with pytest.raises(ConfigError, match=r"task\.align\.weights is not set.*the word random"):
        tasks.build(config(weights=None)).frozen["align"].read()
    small = small_mae.COMPLETE
    model_folder.write(tmp_path / "m", small, tiny.params(small), source="a test")
    part = tasks.build(config(weights=str(tmp_path / "m"))).frozen["align"]
    with pytest.raises(
        CheckpointError, match=r"align\.weights .*m holds another encoder than 'mae_wi"
    ):
        part.read()
    sam = tiny.config("efficientsam")  # whose class token nobody kept
    model_folder.write(tmp_path / "s", sam, tiny.params(sam), source="a test")
    encoder = VitConfig(width=12, heads=3, depth=2, patch_px=8, image_px=32, pretrain_px=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(named._BUILDERS, WIDE, lambda: MaeConfig(encoder=encoder))
        part = tasks.build(config(weights=str(tmp_path / "s"))).frozen["align"]
        with pytest.raises(CheckpointError, match="has no class token"):
            part.read()
    classifier = ClassifierConfig(encoder=LARGE.encoder, classes=3, pool="mean")
    model_folder.write(tmp_path / "c", classifier, tiny.params(classifier), source="a test")
    part = tasks.build(config(weights=str(tmp_path / "c"))).frozen["align"]
    assert part.read()["encoder"].keys() == teacher()["encoder"].keys()


@pytest.mark.parametrize(
    ("align", "reason"),
    [
        (
            {"model": "efficientsam_nano"},
            "is 'efficientsam_nano', which is no MAE: choose an mae_*",
        ),
        (
            {"model": "mae_nano"},
            r"position table of 'mae_nano' was made for 64.*task\.align\.model",
        ),
        ({"student_blocks": 5}, r"student_blocks is 5, but the encoder has 4 blocks"),
        ({"teacher_blocks": 6}, r"teacher_blocks is 6, but the encoder has 5 blocks"),
    ],
)
def test_teachers_that_do_not_fit(align, reason):
    with pytest.raises(ConfigError, match=reason):
        tasks.build(config(**align))


def test_a_teacher_of_other_patches_is_refused():
    encoder = dataclasses.replace(LARGE.encoder, patch_px=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(named._BUILDERS, WIDE, lambda: MaeConfig(encoder=encoder))
        with pytest.raises(ConfigError, match="has patches of 16 pixels, but the student of 8"):
            tasks.build(config())


def test_its_keys_turn_it_on():
    run = configs.load("quickstart_mae")
    keys = ["--task.align.model", "mae_nano", "--task.align.weights", "runs/mae"]
    found = run_keys.parse(run, keys, prog="esam train quickstart_mae")
    assert found.task.align == AlignConfig(model="mae_nano", weights="runs/mae")
    changed = dataclasses.replace(found.task.align, weights=None)
    assert configs.load("quickstart_dmae").task.align == changed


def test_features_of_it_are_not_stored(tmp_path):
    run = config()
    view = dataclasses.replace(run.data.view, crops=2)
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, view=view))
    with pytest.raises(ConfigError, match="the task 'mae' has no teacher"):
        stored_features.store(run, tmp_path / "f")
