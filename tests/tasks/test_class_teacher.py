"""Distillation of classes: whose answers a second head learns, and what is refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import nano, tiny

from esam_jax import configs, sharding, tasks
from esam_jax.config import ClassifierConfig, ClassTeacherConfig, MeshConfig, RegNetConfig
from esam_jax.convert import model_folder
from esam_jax.convert.families import timm_vit
from esam_jax.errors import CheckpointError, ConfigError, MissingError
from esam_jax.models import named
from esam_jax.models.heads import classifier
from esam_jax.models.heads.classifier import Classifier
from esam_jax.ops import soft_labels
from esam_jax.tasks import operations
from esam_jax.train import frozen

NAME, PX, CLASSES = "efficientsam_nano", 64, 5


def network(pool, **changes):
    encoder = timm_vit.pretrained(named.sam(NAME).encoder)
    return ClassifierConfig(encoder=encoder, classes=CLASSES, pool=pool, **changes)


def config(teacher=None, **changes):
    run = configs.load("classify_nano")
    teacher = ClassTeacherConfig(**(teacher or {}))
    task = dataclasses.replace(run.task, pool="distilled", teacher=teacher, **changes)
    view = dataclasses.replace(run.data.view, classes=CLASSES)
    return dataclasses.replace(run, task=task, data=dataclasses.replace(run.data, view=view))


def written(folder, model):
    params = nano.params(model)
    model_folder.write(folder, model, params, source="test")
    return str(folder), params


BATCH = {
    "image": jnp.asarray(nano.picture(4 * PX, PX).reshape(4, PX, PX, 3)),
    "label": jnp.array([0, 4, 1, 4]),
    "erased": jnp.zeros((4, 4), jnp.int32),
    "noise": jnp.arange(8, dtype=jnp.uint32).reshape(4, 2),
}


@functools.cache
def by_head(params_of, pool):
    return tiny.jit(functools.partial(Classifier(network(pool)).apply, method=params_of))


def softmax(x):
    x = np.exp(np.asarray(x, np.float64) - np.max(x, -1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


@pytest.mark.parametrize(
    "teacher",
    [{}, {"labels": "soft", "temperature": 3.0, "share": 0.1}],
    ids=["hard", "soft"],
)
def test_each_head_has_its_own_answers_to_learn(tmp_path, teacher):
    """By DeiT's losses.py, in NumPy: the teacher sees what the student does, mixed and erased."""
    path, taught = written(tmp_path / "teacher", network("mean"))
    task = tasks.build(config({"weights": path, **teacher}))
    student = nano.params(network("distilled"))
    draws = task.draw(jax.random.key(1), 4)
    batch = task.prepare({**BATCH, **draws})
    assert task.frozen["teacher"].read()["head"]["kernel"].shape == (64, CLASSES)
    out = tiny.jit(task.loss)({NAME: student}, {"teacher": taught}, batch)
    pixels = batch["pixels"]
    mine = np.asarray(by_head("by_head", "distilled")({"params": student}, pixels))
    answer = np.asarray(by_head("__call__", "mean")({"params": taught}, pixels))
    own = -(np.asarray(batch["target"]) * np.log(softmax(mine[0]))).sum(-1)
    if not teacher:
        second = -np.log(softmax(mine[1]))[np.arange(4), answer.argmax(-1)]
        share = 0.5
    else:
        p, q = softmax(answer / 3), softmax(mine[1] / 3)
        second, share = 9 * (p * np.log(p / q)).sum(-1) / CLASSES, 0.1
    np.testing.assert_allclose(out.metrics["class_loss"], own, rtol=2e-5)
    np.testing.assert_allclose(out.metrics["teacher_loss"], second, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(out.loss, (1 - share) * own + share * second, rtol=1e-4)


def test_nothing_learns_through_the_teacher(tmp_path):
    path, taught = written(tmp_path / "teacher", network("mean"))
    task = tasks.build(config({"weights": path}, mixup=0.0, cutmix=0.0))
    student = jax.tree.map(jnp.asarray, nano.params(network("distilled")))
    batch = task.prepare(BATCH)

    def loss(taught):
        return task.loss({NAME: student}, {"teacher": taught}, batch).loss.mean()

    found = tiny.jit(jax.grad(loss))(jax.tree.map(jnp.asarray, taught))
    assert not any(np.any(x) for x in jax.tree.leaves(found))


def test_a_teacher_is_read_tried_out_and_counted(tmp_path):
    path, params = written(tmp_path / "teacher", network("class_token"))
    run = config({"weights": path})
    task, mesh = tasks.build(run), sharding.make_mesh(MeshConfig(data=1))
    read = frozen.read(task)
    jax.tree.map(np.testing.assert_array_equal, read["teacher"], params)
    shapes = jax.tree.map(np.shape, task.frozen["teacher"].shapes())
    assert shapes == jax.tree.map(np.shape, params)
    frozen.try_out(task, frozen.place(task, read, mesh), mesh)
    student, teacher = operations.parts(run)[1].forward, operations.parts(run)[0].forward
    # 65 tokens against 66 (the one more of the student is a sixty-fifth of most of the work).
    assert 1.01 < student / teacher < 1.05


def test_weights_that_say_the_same_of_everything_are_refused(tmp_path):
    model = network("mean")
    params = jax.tree.map(np.zeros_like, nano.params(model))
    model_folder.write(tmp_path / "teacher", model, params, source="test")
    task, mesh = (
        tasks.build(config({"weights": str(tmp_path / "teacher")})),
        sharding.make_mesh(MeshConfig(data=1)),
    )
    with pytest.raises(CheckpointError, match=r"features of task\.teacher .* the same everywhere"):
        frozen.try_out(task, frozen.place(task, frozen.read(task), mesh), mesh)


def test_a_teacher_of_other_pixels_sees_the_same_picture(tmp_path):
    path, params = written(tmp_path / "teacher", network("mean", pixels="symmetric"))
    task = tasks.build(config({"weights": path}))
    found = tiny.jit(task.frozen["teacher"].features)(params, BATCH["image"])[..., 0, 0]
    symmetric = jnp.asarray(BATCH["image"], jnp.float32) / 127.5 - 1
    plain = by_head("__call__", "mean")({"params": params}, symmetric)
    np.testing.assert_allclose(found, plain, atol=1e-4)


def test_a_convolutional_teacher_is_read_as_any_other(tmp_path):
    model = RegNetConfig(widths=(8,), depths=(1,), group_width=4, classes=CLASSES, stem_width=6)
    path, params = written(tmp_path / "regnet", model)
    task = tasks.build(config({"weights": path}))
    found = tiny.jit(task.frozen["teacher"].features)(params, BATCH["image"])
    assert found.shape == (4, CLASSES, 1, 1) and np.std(found, axis=0).max() > 1e-3
    with pytest.raises(CheckpointError, match=r"another network than .*regnety_16gf.*widths"):
        tasks.build(config({"weights": path, "model": "regnety_16gf"})).frozen["teacher"].read()


def test_a_dry_run_draws_the_named_network_with_the_classes_of_the_run():
    task = tasks.build(config({"model": "deit_ti", "weights": "random"}))
    shapes = task.frozen["teacher"].shapes()
    assert shapes["head"]["kernel"].shape == (192, CLASSES) and task.frozen["teacher"].drawn


def test_what_no_teacher_can_be_is_refused(tmp_path):
    def read(**teacher):
        return tasks.build(config(teacher)).frozen["teacher"].read()

    with pytest.raises(ConfigError, match=r"task\.teacher\.weights is not set, but a trained cl"):
        read()
    with pytest.raises(ConfigError, match=r"weights is not set.* a dry run"):
        read(model="deit_ti")
    with pytest.raises(MissingError, match="nowhere"):
        read(weights=str(tmp_path / "nowhere"))
    path, _ = written(tmp_path / "nine", dataclasses.replace(network("mean"), classes=9))
    with pytest.raises(CheckpointError, match=r"tells 9 classes apart, but data\.view\.classes is"):
        read(weights=path)
    letters = dataclasses.replace(network("mean"), class_names=tuple("abcde"))
    path, _ = written(tmp_path / "letters", letters)
    run = config({"weights": path})
    view = dataclasses.replace(run.data.view, class_names=tuple("abced"))
    other = dataclasses.replace(run, data=dataclasses.replace(run.data, view=view))
    with pytest.raises(CheckpointError, match=r"in the same order"):
        tasks.build(other).frozen["teacher"].read()
    tasks.build(run).frozen["teacher"].read()
    path, _ = written(tmp_path / "same", network("mean"))
    with pytest.raises(CheckpointError, match=r"holds another network than task\.teacher\.model"):
        read(weights=path, model="deit_ti")
    path, _ = written(tmp_path / "sam", named.sam(NAME))
    with pytest.raises(CheckpointError, match="is a promptable model, which tells no classes"):
        read(weights=path)
    with pytest.raises(ConfigError, match="is a promptable model"):
        tasks.build(config({"model": NAME}))


def test_pool_and_teacher_need_each_other():
    run = config()
    run = dataclasses.replace(run, task=configs.load("classify_nano").task)
    cases = [
        ({"pool": "distilled"}, "task.pool is 'distilled', .*: write --task.teacher.weights FILE"),
        ({"teacher": ClassTeacherConfig()}, "task.pool is 'mean', .*: write --task.pool distilled"),
    ]
    for changes, words in cases:
        task = dataclasses.replace(run.task, **changes)
        with pytest.raises(ConfigError, match=words):
            tasks.build(dataclasses.replace(run, task=task))
    with pytest.raises(ConfigError, match=r"temperature is 2\.0, but is of soft labels"):
        ClassTeacherConfig(temperature=2.0)


def test_a_distilled_model_starts_from_others(tmp_path):
    def start(path):
        return tasks.build(config({"weights": "x"}, init_from=path)).initial().params[NAME]

    path, params = written(tmp_path / "same", network("distilled"))
    jax.tree.map(np.testing.assert_array_equal, start(path), params)
    path, params = written(tmp_path / "more", dataclasses.replace(network("distilled"), classes=9))
    found = start(path)
    assert found.keys() == {"encoder", "class_token", "norm", "distillation"}
    assert found["distillation"].keys() == {"token", "position"}
    path, params = written(tmp_path / "token", network("class_token"))
    assert start(path).keys() == {"encoder", "class_token", "norm"}
    path, params = written(tmp_path / "mean", network("mean"))
    assert start(path).keys() == {"encoder", "class_token"}


def test_heads_begin_small_behind_pretraining_alone(monkeypatch):
    stds = []
    monkeypatch.setattr(classifier, "init", lambda *given, head_std: stds.append(head_std))
    for init_from in (None, "somewhere"):
        tasks.build(config({"weights": "x"}, init_from=init_from)).init(jax.random.key(0))
    assert stds == [classifier.SCRATCH, classifier.PRETRAINED]


def test_losses_are_deits():
    """torch's kl_div and cross_entropy as losses.py calls them."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    mine, theirs = (rng.normal(size=(6, 7)).astype(np.float32) for _ in range(2))
    functional, tau = torch.nn.functional, 3.0
    wanted = functional.kl_div(
        functional.log_softmax(torch.tensor(mine) / tau, dim=1),
        functional.log_softmax(torch.tensor(theirs) / tau, dim=1),
        reduction="sum",
        log_target=True,
    ) * (tau * tau / mine.size)
    found = soft_labels.divergence(jnp.asarray(mine), jnp.asarray(theirs), tau)
    assert float(found.mean()) == pytest.approx(float(wanted), abs=1e-6)
    wanted = functional.cross_entropy(torch.tensor(mine), torch.tensor(theirs).argmax(1))
    target = soft_labels.hard(jnp.asarray(theirs))
    found = soft_labels.cross_entropy(jnp.asarray(mine), target).mean()
    assert float(found) == pytest.approx(float(wanted), abs=1e-6)
