"""SAMI: the loss against its parts, its choices, and what a run leaves behind."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import nano, tiny

from esam_jax import configs, tasks
from esam_jax.config import PretrainDecoderConfig, SamiConfig, TeacherConfig
from esam_jax.convert import model_folder
from esam_jax.convert.families import timm_vit
from esam_jax.errors import CheckpointError, ConfigError
from esam_jax.models import named
from esam_jax.models.encoders.sam_vit import SamVitEncoder
from esam_jax.models.pretrain.sami import Sami
from esam_jax.ops import images, masking
from esam_jax.tasks.task import Start

PX, TOKENS, VISIBLE = 64, 64, 16
DECODER = PretrainDecoderConfig(width=32, depth=1, heads=2)


def _config(**changes):
    teacher = changes.pop("teacher", TeacherConfig(model="sam_nano", weights="random"))
    task = SamiConfig(students=("efficientsam_nano",), teacher=teacher, decoder=DECODER, **changes)
    return dataclasses.replace(configs.load("quickstart_sami"), task=task)


BATCH = {"image": jnp.asarray(nano.picture(3 * PX, PX).reshape(3, PX, PX, 3))}
# The same compiled program wherever a test puts the loss together by hand.
choose = tiny.jit(masking.choose, static_argnums=(1, 2, 3))


@functools.cache
def _begun():
    """As a run begins: the task, random students, and its random teacher."""
    task = tasks.build(_config())
    params = jax.tree.map(jnp.asarray, _drawn(jax.eval_shape(task.init, jax.random.key(0))))
    return task, params, {"teacher": task.frozen["teacher"].read()}


@functools.cache
def _left_behind():
    task, params, _ = _begun()
    with nano.filled_with_zeros():
        return task.models(params, Start())["efficientsam_nano"]


def _drawn(shapes):
    """Small random numbers in the place of parameters, without compiling their initialisers."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype), shapes)


def _run(config, frozen=None):
    task = tasks.build(config)
    params = _drawn(jax.eval_shape(task.init, jax.random.key(0)))
    frozen = _begun()[2] if frozen is None else frozen(task)
    return task, params, frozen, _loss(task, params, frozen)


def _loss(task, params, frozen):
    return tiny.jit(task.loss)(params, frozen, _with_choices(task))


def _with_choices(task, seed=5):
    draw = tiny.jit(task.draw, static_argnums=1)
    return BATCH | draw(jax.random.key(seed), len(BATCH["image"]))


def _apply(module, params, *inputs):
    return np.asarray(tiny.jit(module.apply)({"params": params}, *inputs))


@functools.cache
def _by_hand():
    """What student and teacher make of the batch, each on its own."""
    _, params, frozen = _begun()
    pixels = images.normalise(BATCH["image"])
    encoder = named.sam("sam_nano").encoder
    visible, masked = choose(jax.random.key(5), 3, TOKENS, VISIBLE)
    student = Sami(named.sam("efficientsam_nano").encoder, DECODER, encoder.neck_width)
    found = _apply(student, params["efficientsam_nano"], pixels, visible, masked)
    target = _apply(SamVitEncoder(encoder), frozen["teacher"], pixels)
    return found.astype(np.float64), target.astype(np.float64)


@pytest.mark.parametrize("loss", ["mse", "cosine"])
def test_loss_is_over_all_tokens_of_the_teacher(loss):
    """Against the parts put together by hand: error of every token, visible ones too."""
    _, params, frozen = _begun()
    out = _loss(tasks.build(_config(loss=loss)), params, frozen)
    found, target = _by_hand()
    encoder = named.sam("sam_nano").encoder
    assert found.shape == target.shape == (3, 8, 8, encoder.neck_width)
    if loss == "mse":
        wanted = [np.mean((found[b] - target[b]) ** 2) for b in range(3)]
    else:
        norms = np.linalg.norm(found, axis=-1) * np.linalg.norm(target, axis=-1)
        wanted = (1 - (found * target).sum(-1) / norms).mean((1, 2))
    np.testing.assert_allclose(out.loss, wanted, rtol=3e-5)
    assert np.array_equal(out.weight, np.ones(3))
    # Of a student that predicts the same features everywhere; the least of those for `mse`.
    mean = target.mean((0, 1, 2))
    if loss == "mse":
        baseline = target.var((0, 1, 2)).mean()
    else:
        norms = np.linalg.norm(target, axis=-1) * np.linalg.norm(mean)
        baseline = (1 - (target * mean).sum(-1) / norms).mean()
    assert np.mean(out.metrics["baseline_loss"]) == pytest.approx(baseline, rel=3e-5)


def test_students_from_one_teacher_pass_learn_as_apart():
    """Two students under different names: each one's loss is what it has alone."""
    config = _config()
    both = dataclasses.replace(
        config,
        task=dataclasses.replace(config.task, students=("efficientsam_nano", "_test_small")),
    )
    small = dataclasses.replace(named.sam("efficientsam_nano").encoder, width=32, depth=1)
    whole = dataclasses.replace(named.sam("efficientsam_nano"), encoder=small)
    original = named.sam
    with pytest.MonkeyPatch.context() as patch:
        for known in ("sam", "model"):
            patch.setattr(named, known, lambda n: whole if n == "_test_small" else original(n))
        task, params, frozen, out = _run(both)
        student = {"efficientsam_nano": params["efficientsam_nano"]}
        alone = _loss(tasks.build(config), student, frozen)
        with nano.filled_with_zeros():
            names = set(task.models(params, Start()))
    assert names == {"efficientsam_nano", "_test_small"}
    np.testing.assert_allclose(out.metrics["loss/efficientsam_nano"], alone.loss, rtol=1e-5)
    each = [value for metric, value in out.metrics.items() if metric.startswith("loss/")]
    np.testing.assert_allclose(out.loss, sum(each), rtol=1e-6)
    np.testing.assert_allclose(
        out.metrics["baseline_loss"], 2 * alone.metrics["baseline_loss"], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("teacher", "width"),
    [
        (TeacherConfig(model="sam_nano", weights="random", features="trunk"), 96),
        (TeacherConfig(model="sam_nano", weights="random", view="enlarged"), 64),
    ],
)
def test_other_targets(teacher, width):
    _, params, _, out = _run(_config(teacher=teacher))
    assert params["efficientsam_nano"]["head"]["kernel"].shape[-1] == width
    assert np.isfinite(out.loss).all()


def test_enlarged_input_is_pooled_to_the_students_grid():
    """A teacher with twice the pixels sees the enlarged picture; its cells are averaged 2 x 2."""
    big = dataclasses.replace(named.sam("sam_nano").encoder, image_px=128)
    whole = dataclasses.replace(named.sam("sam_nano"), encoder=big)
    teacher = TeacherConfig(model="_test_big", weights="random", view="enlarged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(named._BUILDERS, "_test_big", lambda: whole)
        _, params, frozen, out = _run(
            _config(teacher=teacher),
            lambda task: {"teacher": _drawn(task.frozen["teacher"].shapes())},
        )
    pixels = images.normalise(BATCH["image"])
    # torch's bilinear rule on an exact doubling, from the slow definition in one dimension twice
    doubled = jax.image.resize(pixels, (3, 128, 128, 3), "linear")
    cells = _apply(SamVitEncoder(big), frozen["teacher"], doubled)
    target = cells.reshape(3, 8, 2, 8, 2, -1).mean((2, 4))
    visible, masked = choose(jax.random.key(5), 3, TOKENS, VISIBLE)
    student = Sami(named.sam("efficientsam_nano").encoder, DECODER, 64)
    found = _apply(student, params["efficientsam_nano"], pixels, visible, masked)
    np.testing.assert_allclose(out.loss, np.mean((found - target) ** 2, axis=(1, 2, 3)), rtol=1e-4)


def test_no_gradient_reaches_the_teacher():
    task, params, frozen = _begun()
    batch = _with_choices(task)

    def total(frozen):
        return task.loss(params, frozen, batch).loss.sum()

    gradient = tiny.jit(jax.grad(total))(frozen)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))


def _teacher(config):
    return tasks.build(_config(teacher=config)).frozen["teacher"]


def test_a_teacher_without_weights_is_refused():
    with pytest.raises(ConfigError, match=r"teacher\.weights is not set.*random"):
        _teacher(TeacherConfig(model="sam_nano")).read()


def test_weights_of_another_teacher_are_refused(tmp_path):
    config = named.sam("efficientsam_nano")
    params = nano.params(config)
    model_folder.write(tmp_path / "model", config, params, source="test")
    teacher = TeacherConfig(model="sam_nano", weights=str(tmp_path / "model"))
    with pytest.raises(CheckpointError, match="another image encoder"):
        _teacher(teacher).read()


def test_given_weights_are_the_frozen_ones(tmp_path):
    config = named.sam("sam_nano")
    params = nano.params(config)
    model_folder.write(tmp_path / "model", config, params, source="test")
    teacher = TeacherConfig(model="sam_nano", weights=str(tmp_path / "model"))
    found = _teacher(teacher).read()
    jax.tree.map(np.testing.assert_array_equal, found, params["encoder"])


def test_a_teacher_with_other_patches_is_refused():
    with pytest.raises(ConfigError, match="patches"):
        tasks.build(_config(teacher=TeacherConfig(model="sam_b", weights="random")))


def test_the_model_left_behind_keeps_the_trunk():
    model, (_, params, _) = _left_behind(), _begun()
    assert model.untrained == ("encoder/neck", "prompt", "decoder")
    trunk = dict(model.params["encoder"])
    trunk.pop("neck")
    jax.tree.map(np.testing.assert_array_equal, trunk, params["efficientsam_nano"]["encoder"])


def test_the_model_left_behind_brings_what_timm_needs():
    model, sami = _left_behind(), _begun()[1]["efficientsam_nano"]
    config, vit = timm_vit.backbone(model.config, model.params, model.unused)
    assert config.decoder is None and config.encoder.pretrain_px == PX
    wanted = {name: sami[name] for name in ("encoder", "class_token", "norm")}
    jax.tree.map(np.testing.assert_array_equal, vit, wanted)
