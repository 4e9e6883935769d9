"""Distillation: the loss against its parts, what is trained, and what a run leaves behind."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import nano, tiny

from esam_jax import configs, sharding, tasks
from esam_jax.config import (
    CropConfig,
    DistillConfig,
    EvaluateConfig,
    FramedConfig,
    MaeConfig,
    MeshConfig,
    PromptedConfig,
    ScenesConfig,
    SegmentConfig,
    TeacherConfig,
)
from esam_jax.convert import load, model_folder
from esam_jax.convert.families import timm_vit
from esam_jax.data import sources
from esam_jax.errors import CheckpointError, ConfigError
from esam_jax.evaluate import prompts
from esam_jax.models import flops, named
from esam_jax.models.encoders.sam_vit import SamVitEncoder
from esam_jax.models.encoders.tiny_vit import TinyVitEncoder
from esam_jax.models.encoders.vit import VitEncoder
from esam_jax.models.parts import batch_norm
from esam_jax.models.sam.network import Sam
from esam_jax.ops import images
from esam_jax.tasks import segment
from esam_jax.tasks.task import BEHIND_TRUNK, Start
from esam_jax.train import step

PX, STUDENT = 64, "mobile_sam_nano"
NANO = named.sam(STUDENT)
TEACHER = TeacherConfig(model="sam_nano", weights="quickstart_teacher")
FRAMED = FramedConfig(image_px=PX, fit="pad")
PROMPTED = PromptedConfig(image_px=PX, fit="pad", masks=3)
CROP = CropConfig(image_px=PX)


def run_of(view=FRAMED, accumulate=1, **task):
    config = configs.load("quickstart_distill")
    task = DistillConfig(**{"student": STUDENT, "teacher": TEACHER} | task)
    data = dataclasses.replace(config.data, view=view)
    return dataclasses.replace(config, task=task, data=data, accumulate=accumulate, batch=4)


def batch():
    rng = np.random.default_rng(0)
    masks = rng.random((2, 3, PX, PX)) < 0.3
    return {
        "image": rng.integers(0, 256, (2, PX, PX, 3), np.uint8),
        "masks": np.packbits(masks, axis=-1),
        "points": rng.random((2, 3, 2, 2), np.float32) * PX,
        "labels": np.tile(np.array([[1, -1], [2, 3], [1, -1]], np.int32), (2, 1, 1)),
        "valid": np.array([[1, 1, 0], [1, 0, 0]], np.float32),
    }


PICTURES = {"image": batch()["image"]}


@functools.cache
def teacher():
    return tasks.build(run_of()).frozen["teacher"].read()


@functools.cache
def target():
    """What the teacher makes of the pictures, by its network alone."""
    pixels = images.normalise(jnp.asarray(PICTURES["image"]))
    encoder = SamVitEncoder(named.sam("sam_nano").encoder)
    return np.asarray(tiny.jit(encoder.apply)({"params": teacher()}, pixels), np.float64)


@functools.cache
def student():
    return jax.tree.map(jnp.asarray, nano.params(NANO))


def learned(config, params, given):
    """Gradient, metrics and statistics of one update."""
    task, place = tasks.build(config), sharding.batch(sharding.make_mesh(MeshConfig(data=1)))

    def run(params, frozen, given):
        return step.mean_gradient(task, params, frozen, given, jax.random.key(0), 1, place)

    frozen = {"teacher": teacher()} if task.frozen else {}
    return tiny.jit(run)(params, frozen, given)


@functools.cache
def decoupled():
    return learned(run_of(), {STUDENT: student()}, PICTURES)


@pytest.mark.slow
def test_the_embedding_is_compared_with_the_teachers():
    _, metrics, moments = decoupled()
    pixels = images.normalise(jnp.asarray(PICTURES["image"]))
    variables = {"params": student()["encoder"]}
    apply = functools.partial(TinyVitEncoder(NANO.encoder).apply, method=TinyVitEncoder.jointly)
    found, seen = tiny.jit(apply)(variables, pixels)
    wanted = np.mean((np.asarray(found, np.float64) - target()) ** 2)
    assert float(metrics["loss"]) == pytest.approx(wanted, rel=1e-4)
    assert metrics["loss"] == metrics["feature_loss"]
    assert float(metrics["baseline_loss"]) == pytest.approx(
        target().var((0, 1, 2)).mean(), rel=1e-4
    )
    for ours, theirs in zip(
        jax.tree.leaves(moments), jax.tree.leaves({STUDENT: {"encoder": seen}}), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_encoder_alone_is_trained_and_the_decoder_has_no_gradient():
    grads, _, _ = decoupled()
    paths = {sharding.name(path) for path, _ in jax.tree_util.tree_leaves_with_path(grads)}
    everything = {
        sharding.name(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(
            {STUDENT: {"encoder": student()["encoder"]}}
        )
    }
    assert paths == {path for path in everything if not batch_norm.is_statistic(path)}
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        name = sharding.name(path)
        if not name.endswith("key/bias"):  # adds the same to all scores of a query
            assert np.abs(leaf).max() > 0, name


def test_stored_statistics_are_another_choice():
    grads, metrics, moments = learned(run_of(batch_norm="stored"), {STUDENT: student()}, PICTURES)
    assert moments == {} and grads.keys() == {STUDENT}
    pixels = images.normalise(jnp.asarray(PICTURES["image"]))
    found = tiny.jit(TinyVitEncoder(NANO.encoder).apply)({"params": student()["encoder"]}, pixels)
    wanted = np.mean((np.asarray(found, np.float64) - target()) ** 2)
    assert float(metrics["loss"]) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("coupling", "loss_at"), [("semi", "low_res"), ("coupled", "image")])
def test_masks_are_learned_through_the_decoder(coupling, loss_at):
    """Against `segment`'s loss of the same embedding, put together by hand."""
    given, params = jax.tree.map(jnp.asarray, batch()), {STUDENT: student()}
    config = run_of(
        PROMPTED, coupling=coupling, feature_weight=0.5, batch_norm="stored", loss_at=loss_at
    )
    grads, metrics, _ = learned(config, params, given)
    model = Sam(NANO)
    pixels = images.normalise(jnp.asarray(given["image"]))
    masks = jnp.asarray(np.unpackbits(batch()["masks"], axis=-1).astype(bool))

    teachers = target()

    def by_hand(params):
        variables = {"params": params[STUDENT]}
        embedding = model.apply(variables, pixels, method=Sam.encode)
        prompt = given["points"], given["labels"]
        logits, scores = model.apply(variables, embedding, *prompt, method=Sam.decode)
        rules = SegmentConfig(loss_at=loss_at)
        each = segment.round_loss(rules, logits[:, :, 1:], scores[:, :, 1:], masks, given["valid"])
        error = jnp.square(embedding - teachers).mean((1, 2, 3))
        total = (each.loss + 0.5 * error[:, None]) * each.weight
        return total.sum() / each.weight.sum()

    wanted, wanted_grads = tiny.jit(jax.value_and_grad(by_hand))(params)
    assert float(metrics["loss"]) == pytest.approx(float(wanted), rel=1e-4)
    trained = {"encoder", "prompt", "decoder"} if coupling == "coupled" else {"encoder"}
    assert grads[STUDENT].keys() == trained
    found = grads[STUDENT]["encoder"]["neck"]["project"]["kernel"]
    expected = wanted_grads[STUDENT]["encoder"]["neck"]["project"]["kernel"]
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-5 * np.abs(expected).max())


def test_without_a_weight_the_teacher_does_not_run_and_norms_learn_all_the_same():
    task = tasks.build(run_of(PROMPTED, coupling="semi", feature_weight=0.0))
    assert task.frozen == {}
    params = {STUDENT: student()}
    seen = jax.eval_shape(lambda *x: task.loss(*x).moments, params, {}, batch())
    found = {sharding.name(path) for path, _ in jax.tree_util.tree_leaves_with_path(seen)}
    names = (sharding.name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))
    assert found == {name for name in names if batch_norm.is_statistic(name)}


def test_the_error_of_features_is_measured_with_stored_statistics():
    """As the model is used: those of a batch would be others on every number of devices."""
    task, params = tasks.build(run_of(CROP, coupling="features")), student()["encoder"]
    held_out = ScenesConfig(split="heldout")
    evaluate = EvaluateConfig(source=held_out, images=2)
    measure = task.measurement(evaluate, sharding.make_mesh(MeshConfig(data=1)))
    found = measure({STUDENT: {"encoder": params}}, {"teacher": teacher()})
    source, errors = sources.open_source(held_out), []
    for place in prompts.chosen(source, 2, evaluate.seed):
        pixels = images.normalise(jnp.asarray(source.read(place).picture.rgb())[None])
        mine = tiny.jit(TinyVitEncoder(NANO.encoder).apply)({"params": params}, pixels)
        encoder = SamVitEncoder(named.sam("sam_nano").encoder)
        theirs = tiny.jit(encoder.apply)({"params": teacher()}, pixels)
        errors.append(np.square(np.asarray(mine, np.float64) - np.asarray(theirs)).mean())
    assert found == {"embedding_mse": pytest.approx(np.mean(errors), rel=1e-4)}


def test_a_run_begins_with_the_teachers_decoder_and_ends_with_a_promptable_model():
    task, shipped = tasks.build(run_of()), load.model_file("quickstart_teacher")
    start = task.initial()
    assert start.params[STUDENT].keys() == {"prompt", "decoder"}
    # What the teacher was never trained for stays named.
    assert start.untrained == tuple(shipped.untrained)
    for part in ("prompt", "decoder"):
        taken = jax.tree.leaves(start.params[STUDENT][part])
        for ours, theirs in zip(taken, jax.tree.leaves(shipped.params[part]), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    model = task.models({STUDENT: student()}, start)[STUDENT]
    assert model.config == NANO and model.untrained == start.untrained
    assert model.params.keys() == {"encoder", "prompt", "decoder"}


def test_any_encoder_learns_with_the_teachers_decoder():
    """A plain ViT gets SAM's wiring, which no named model of one has."""
    view = dataclasses.replace(FRAMED, fit="pad")
    task = tasks.build(run_of(view, student="efficientsam_nano"))
    model = task.models({"efficientsam_nano": nano.params(NANO)}, Start())["efficientsam_nano"]
    assert model.config.encoder == named.sam("efficientsam_nano").encoder
    assert model.config.decoder == named.sam("sam_nano").decoder
    assert tasks.build(run_of(student="sam_nano")).frozen.keys() == {"teacher"}


def features_of(model, loss="unit_l1", **changes):
    return run_of(CROP, student=model, coupling="features", loss=loss, **changes)


def test_features_alone_are_pretraining():
    """Trunk and trunk, of different widths: a linear head between them, which nobody keeps."""
    config = features_of(
        "efficientsam_nano", teacher=dataclasses.replace(TEACHER, features="trunk")
    )
    task = tasks.build(config)
    shapes = jax.eval_shape(task.init, jax.random.key(0))["efficientsam_nano"]
    assert shapes.keys() == {"encoder", "head"}
    assert shapes["head"]["kernel"].shape == (64, 96)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), shapes)
    _, metrics, _ = learned(config, {"efficientsam_nano": params}, PICTURES)

    pixels = images.normalise(jnp.asarray(PICTURES["image"]))
    mine, theirs = named.sam("efficientsam_nano").encoder, named.sam("sam_nano").encoder
    trunk = functools.partial(VitEncoder(mine).apply, method=VitEncoder.trunk)
    found = np.asarray(tiny.jit(trunk)({"params": params["encoder"]}, pixels), np.float64)
    found = found @ params["head"]["kernel"] + params["head"]["bias"]
    trunk = functools.partial(SamVitEncoder(theirs).apply, method=SamVitEncoder.trunk)
    wanted = np.asarray(tiny.jit(trunk)({"params": teacher()}, pixels), np.float64)
    wanted = wanted.reshape(found.shape)
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (found, wanted)]
    error = np.abs(unit[0] - unit[1]).mean()
    assert float(metrics["loss"]) == pytest.approx(error, rel=1e-4)

    with nano.filled_with_zeros():
        model = task.models({"efficientsam_nano": params}, task.initial())["efficientsam_nano"]
    assert model.config == named.sam("efficientsam_nano") and model.untrained == BEHIND_TRUNK
    assert model.params.keys() == {"encoder", "prompt", "decoder"}
    # There is no decoder to measure: the error of the features alone.
    evaluate = EvaluateConfig(source=ScenesConfig(split="heldout"), images=2)
    measure = task.measurement(evaluate, sharding.make_mesh(MeshConfig(data=1)))
    frozen = jax.tree.map(jnp.asarray, {"teacher": teacher()})
    assert measure({"efficientsam_nano": params}, frozen).keys() == {"embedding_mse"}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"view": CROP}, "sees entire pictures: write --data.view.kind framed"),
        ({"student_features": "trunk"}, r"student_features is 'trunk', but .* needs the embedding"),
        ({"coupling": "semi"}, r"data\.view\.kind is 'framed', but .* compares masks"),
        ({"feature_weight": 0.5}, "has no other loss"),
        ({"view": dataclasses.replace(FRAMED, fit="stretch")}, r"data\.view\.fit is 'stretch'"),
        ({"view": dataclasses.replace(FRAMED, image_px=128)}, r"data\.view\.image_px is 128"),
        (
            {"teacher": dataclasses.replace(TEACHER, features="trunk"), "student": "sam_nano"},
            "its decoder reads the embedding",
        ),
        (
            {
                "view": CROP,
                "coupling": "features",
                "teacher": dataclasses.replace(TEACHER, features="trunk"),
            },
            "'mobile_sam_nano' has no trunk of one width",
        ),
        (
            {"teacher": dataclasses.replace(TEACHER, model="sam_b")},
            "has an embedding of 64 channels, but the decoder of 'sam_b' reads 256",
        ),
        (
            {"view": CROP, "coupling": "features", "teacher": TeacherConfig(model="sam_b")},
            "8 cells a side in 'mobile_sam_nano', but 4 in 'sam_b'",
        ),
        ({"accumulate": 2}, r"accumulate is 2, but task\.batch_norm 'batch'"),
    ],
)
def test_what_does_not_fit_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        tasks.build(run_of(**config))


def test_micro_batches_go_with_stored_statistics_and_other_encoders():
    assert tasks.build(run_of(accumulate=2, batch_norm="stored"))
    assert tasks.build(run_of(accumulate=2, student="sam_nano"))


def test_a_teacher_must_be_named_and_have_a_trained_decoder(tmp_path):
    with pytest.raises(ConfigError, match="a trained teacher is needed"):
        tasks.build(run_of(teacher=TeacherConfig(model="sam_nano"))).initial()
    config = named.sam("sam_nano")
    model_folder.write(
        tmp_path / "m", config, nano.params(config), source="test", untrained=("decoder",)
    )
    half = TeacherConfig(model="sam_nano", weights=str(tmp_path / "m"))
    with pytest.raises(CheckpointError, match="no trained mask decoder"):
        tasks.build(run_of(teacher=half)).initial()
    vit = MaeConfig(encoder=timm_vit.pretrained(named.sam("efficientsam_nano").encoder))
    model_folder.write(tmp_path / "vit", vit, nano.params(vit), source="test")
    without = TeacherConfig(model="sam_nano", weights=str(tmp_path / "vit"))
    with pytest.raises(CheckpointError, match="no trained mask decoder"):
        tasks.build(run_of(teacher=without)).initial()
    random = dataclasses.replace(TEACHER, weights="random")
    assert tasks.build(run_of(teacher=random)).initial() == Start()


def test_a_student_may_start_from_a_model_of_its_name(tmp_path):
    params = nano.params(NANO)
    for name, config, untrained in (
        ("complete", NANO, ()),
        ("trunk", NANO, ("encoder/neck", "prompt", "decoder")),
        ("other", named.sam("sam_nano"), ()),
    ):
        mine = params if config == NANO else nano.params(config)
        model_folder.write(tmp_path / name, config, mine, source="test", untrained=untrained)
    begun = tasks.build(run_of(init_from=str(tmp_path / "complete"))).initial().params[STUDENT]
    assert begun.keys() == {"encoder", "prompt", "decoder"}
    jax.tree.map(np.testing.assert_array_equal, begun["encoder"], params["encoder"])
    # The decoder is the teacher's, whatever the first model had.
    shipped = load.model_file("quickstart_teacher").params["decoder"]
    jax.tree.map(np.testing.assert_array_equal, begun["decoder"], shipped)
    trunk = tasks.build(run_of(init_from=str(tmp_path / "trunk"))).initial().params[STUDENT]
    assert params["encoder"].keys() - trunk["encoder"].keys() == {"neck"}
    with pytest.raises(CheckpointError, match="holds another model than 'mobile_sam_nano'"):
        tasks.build(run_of(init_from=str(tmp_path / "other"))).initial()


def test_promptable_training_starts_from_pretrained_features(tmp_path):
    config = features_of("efficientsam_nano")
    task, name = tasks.build(config), "efficientsam_nano"
    params = {"encoder": nano.params(named.sam(name))["encoder"]}
    with nano.filled_with_zeros():
        model = task.models({name: params}, task.initial())[name]
    assert model.untrained == ("prompt", "decoder")
    model_folder.write(
        tmp_path / "m", model.config, model.params, source="test", untrained=model.untrained
    )
    segment_run = configs.load("quickstart_segment")
    segment_task = dataclasses.replace(segment_run.task, init_from=str(tmp_path / "m"))
    start = tasks.build(dataclasses.replace(segment_run, task=segment_task)).initial()
    jax.tree.map(np.testing.assert_array_equal, start.params[name]["encoder"], params["encoder"])


def test_a_frozen_decoder_has_no_gradient_of_its_own():
    """Of the update: three passes of what is trained, two of the decoder behind it."""
    semi = tasks.build(run_of(PROMPTED, coupling="semi"))
    coupled = tasks.build(run_of(PROMPTED, coupling="coupled"))
    encoder = flops.encoder(NANO.encoder, PX)
    total = encoder + 1000
    assert coupled.passes(total) == 3 * total
    assert semi.passes(total) == 3 * encoder + 2 * 1000
