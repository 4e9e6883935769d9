"""Eight pretend devices give the numbers of one: float rounding apart, whatever the mesh."""

import dataclasses
import functools

import jax
import layouts
import matrix
import numpy as np
import pytest
from helpers import made_sets, quick, toy
from layouts import Layout

from esam_jax import configs, sharding, tasks
from esam_jax.config import (
    ClassifierConfig,
    ClassTeacherConfig,
    MeshConfig,
    PretrainDecoderConfig,
    SamiConfig,
    TeacherConfig,
)
from esam_jax.convert.families import timm_vit
from esam_jax.data import loader, sources
from esam_jax.models import named
from esam_jax.plan import collectives
from esam_jax.train import step

ONE = MeshConfig(data=1)


@functools.cache
def train(mesh_config, accumulate=1):
    """Three updates of the toy task: parameters and metrics, on the host."""
    cfg = toy.config(batch=16, mesh=mesh_config, accumulate=accumulate)
    mesh, task = sharding.make_mesh(mesh_config), toy.task(noise=0.1)
    state = toy.create(task, cfg, mesh)
    update, batches = toy.jit_step(task, cfg, mesh, state, {}), toy.stream(cfg, mesh)
    history = []
    for _ in range(3):
        state, metrics = update(state, {}, next(batches))
        history.append(jax.device_get(metrics))
    return jax.device_get(state), history


def assert_close(a, b, rtol, atol):
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol, err_msg=sharding.name(path))


@pytest.mark.parametrize(
    "mesh, accumulate",
    [
        (MeshConfig(data=8), 1),
        (MeshConfig(data=2, fsdp=2, tensor=2), 1),
        (MeshConfig(fsdp=8), 1),
        (MeshConfig(data=4, fsdp=2), 2),
    ],
)
def test_three_updates_on_any_mesh(mesh, accumulate):
    (state, history), (alone, alone_history) = train(mesh, accumulate), train(ONE, accumulate)
    # Sums run in another order; Adam divides gradients by their own size, noise included.
    assert_close(state.params, alone.params, rtol=1e-4, atol=1e-5)
    assert_close(history, alone_history, rtol=1e-5, atol=1e-7)


def sami():
    config = configs.load("quickstart_sami")
    task = SamiConfig(
        students=("efficientsam_nano",),
        teacher=TeacherConfig(model="sam_nano", weights="random"),
        decoder=PretrainDecoderConfig(width=32, depth=1, heads=2),
    )
    return dataclasses.replace(config, task=task, batch=8)


def mae():
    """With the alignment, whose teacher sees the visible patches of each device's pictures."""
    config = configs.load("quickstart_dmae")
    align = dataclasses.replace(config.task.align, weights="random")
    decoder = PretrainDecoderConfig(width=32, depth=1, heads=2)
    task = dataclasses.replace(config.task, align=align, decoder=decoder)
    return dataclasses.replace(config, task=task, batch=8)


def ablated():
    """Every other choice of SAMI at once, with a plain ViT as the teacher."""
    config = sami()
    teacher = TeacherConfig(model="mae_nano", weights="random", placement="fsdp")
    changed = {"queries": "all", "loss": "cosine", "loss_on": "masked", "teacher": teacher}
    return dataclasses.replace(config, task=dataclasses.replace(config.task, **changed))


def segment():
    config = configs.load("quickstart_scratch")
    view = dataclasses.replace(config.data.view, masks=3)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, view=view), batch=8)


def rounds():
    config = segment()
    config_of_task = {"model": "efficientsam_nano_extended", "clicks": 2, "repeats": 2}
    task = dataclasses.replace(config.task, **config_of_task, drop_path=0.4)
    return dataclasses.replace(config, task=task)


def drawn(shapes, mesh):
    """Small random numbers in the place of parameters, without compiling their initialisers."""
    rng = np.random.default_rng(3)
    values = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(x.dtype), shapes)
    return jax.device_put(values, sharding.shardings(values, mesh))


def loss_and_gradient(cfg, mesh_config, accumulate=1):
    """Of one real batch, and the program that computed them."""
    mesh, task = sharding.make_mesh(mesh_config), tasks.build(cfg)
    params = drawn(jax.eval_shape(task.init, jax.random.key(0)), mesh)
    frozen = drawn({name: part.shapes() for name, part in task.frozen.items()}, mesh)
    source = sources.open_source(cfg.data.source)
    with loader.stream(source, cfg.data, seed=0, batch=cfg.batch, mesh=mesh) as batches:
        batch = next(batches)
    gradient = quick.jit(
        lambda params, frozen, batch: step.mean_gradient(
            task, params, frozen, batch, jax.random.key(1), accumulate, sharding.batch(mesh)
        )[:2],
    )
    program = gradient.lower(params, frozen, batch).compile()
    return *jax.device_get(program(params, frozen, batch)), program


@pytest.mark.slow
@pytest.mark.parametrize(
    "make, mesh, reductions, memory",
    [
        # Gradients alone are summed.
        (sami, MeshConfig(data=2, fsdp=4), 1.1, 0.5),
        (mae, MeshConfig(data=4, fsdp=2), 1.1, 0.5),
        (ablated, MeshConfig(data=4, fsdp=2), 1.1, 0.5),
        # Heads and halves of an MLP are summed too, where they meet in the residual stream.
        (segment, MeshConfig(data=2, fsdp=2, tensor=2), 2.5, 0.3),
        # Gradients of the decoder are summed in each of four rounds that a loop holds.
        (rounds, MeshConfig(data=4, fsdp=2), 3.5, 0.5),
    ],
    ids=["sami", "mae", "ablated", "segment", "rounds"],
)
def test_real_tasks_on_a_mesh(make, mesh, reductions, memory):
    """The same numbers, each device with its own pictures alone: parameters come to them."""
    grads, metrics, program = loss_and_gradient(make(), mesh)
    alone_grads, alone_metrics, alone = loss_and_gradient(make(), ONE)
    assert_close(metrics, alone_metrics, rtol=1e-5, atol=1e-6)
    largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(alone_grads))
    assert_close(grads, alone_grads, rtol=1e-3, atol=1e-5 * largest)
    sent = {each.kind: each.bytes for each in collectives.parse(program.as_text())}
    gradient = sum(leaf.nbytes for leaf in jax.tree.leaves(alone_grads))
    assert sent["all-reduce"] < reductions * gradient
    assert sent.get("all-to-all", 0) + sent.get("collective-permute", 0) < 0.1 * gradient
    temporaries = program.memory_analysis().temp_size_in_bytes
    assert temporaries < memory * alone.memory_analysis().temp_size_in_bytes


def partly(train):
    config = segment()
    return dataclasses.replace(config, task=dataclasses.replace(config.task, train=train))


@pytest.mark.slow
@pytest.mark.parametrize("train", ["decoder", "lora"])
def test_a_part_is_trained_on_a_mesh(train):
    """Pairs lie on every device, beside kernels that are split over all axes."""
    mesh = MeshConfig(data=2, fsdp=2, tensor=2)
    grads, metrics, program = loss_and_gradient(partly(train), mesh)
    alone_grads, alone_metrics, alone = loss_and_gradient(partly(train), ONE)
    assert_close(metrics, alone_metrics, rtol=1e-5, atol=1e-6)
    largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(alone_grads))
    assert_close(grads, alone_grads, rtol=1e-3, atol=1e-5 * largest)
    assert not any(leaf.sharding.spec for leaf in jax.tree.leaves(_placed_pairs(mesh)))
    # Each device has its own pictures alone.
    temporaries = program.memory_analysis().temp_size_in_bytes
    assert temporaries < 0.6 * alone.memory_analysis().temp_size_in_bytes


def _placed_pairs(mesh_config):
    """The pairs of a state and their moments."""
    cfg = partly("lora")
    state = toy.abstract(tasks.build(cfg), cfg, sharding.make_mesh(mesh_config))
    leaves = jax.tree_util.tree_leaves_with_path((state.params, state.opt_state))
    found = [leaf for path, leaf in leaves if "/lora/" in sharding.name(path)]
    assert len(found) == 3 * 2 * 4 * 3  # with two moments; four pairs in each of three blocks
    return found


@pytest.mark.slow
def test_rounds_in_micro_batches_have_the_clicks_of_one_batch():
    grads, metrics, _ = loss_and_gradient(rounds(), MeshConfig(data=2), accumulate=2)
    alone_grads, alone_metrics, _ = loss_and_gradient(rounds(), ONE)
    assert_close(metrics, alone_metrics, rtol=1e-5, atol=1e-6)
    largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(alone_grads))
    assert_close(grads, alone_grads, rtol=1e-3, atol=1e-5 * largest)


def classify(folder):
    config = configs.load("classify_nano")
    source = dataclasses.replace(config.data.source, path=str(made_sets.image_folder(folder, 30)))
    view = dataclasses.replace(config.data.view, classes=2, erasing=0.7)
    task = dataclasses.replace(config.task, drop_path=0.4)
    data = dataclasses.replace(config.data, source=source, view=view)
    return dataclasses.replace(config, task=task, data=data, batch=16)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh, accumulate",
    [(MeshConfig(data=8), 1), (MeshConfig(data=2, fsdp=2, tensor=2), 1), (MeshConfig(data=4), 2)],
)
def test_pictures_are_mixed_alike_on_a_mesh(tmp_path, mesh, accumulate):
    """With pictures that other devices hold, and those of other micro-batches."""
    cfg = classify(tmp_path)
    grads, metrics, program = loss_and_gradient(cfg, mesh, accumulate)
    alone_grads, alone_metrics, _ = loss_and_gradient(cfg, ONE)
    assert_close(metrics, alone_metrics, rtol=1e-5, atol=1e-6)
    largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(alone_grads))
    assert_close(grads, alone_grads, rtol=1e-3, atol=1e-5 * largest)
    # Pictures go to the device that holds their opposites; none is sent to all.
    sent = {each.kind: each.bytes for each in collectives.parse(program.as_text())}
    own = 4 * 3 * 64 * 64 * cfg.batch // (mesh.data * mesh.fsdp)
    assert 0 < sent["collective-permute"] < 1.2 * own
    assert sent.get("all-gather", 0) < 2 * sum(x.nbytes for x in jax.tree.leaves(alone_grads))


@pytest.mark.slow
def test_the_answers_of_a_teacher_are_learned_alike_on_a_mesh(tmp_path, monkeypatch):
    """By the second head, from pictures that are repeated."""
    encoder = timm_vit.pretrained(named.sam("efficientsam_nano").encoder)
    teacher = ClassifierConfig(encoder=encoder, classes=2, pool="mean")
    monkeypatch.setitem(named._BUILDERS, "classifier_nano", lambda: teacher)
    cfg = classify(tmp_path)
    taught = ClassTeacherConfig(model="classifier_nano", weights="random", labels="soft")
    task = dataclasses.replace(cfg.task, pool="distilled", teacher=taught)
    data = dataclasses.replace(cfg.data, repeats=3)
    cfg = dataclasses.replace(cfg, task=task, data=data)
    grads, metrics, _ = loss_and_gradient(cfg, MeshConfig(data=2, fsdp=2, tensor=2))
    alone_grads, alone_metrics, _ = loss_and_gradient(cfg, ONE)
    assert alone_metrics["teacher_loss"] > 0
    assert_close(metrics, alone_metrics, rtol=1e-5, atol=1e-6)
    largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(alone_grads))
    assert_close(grads, alone_grads, rtol=1e-3, atol=1e-5 * largest)
    second = alone_grads["efficientsam_nano"]["distillation"]
    assert all(np.abs(x).max() > 0 for x in jax.tree.leaves(second))


alone = functools.cache(layouts.train)


@pytest.mark.slow
def test_twenty_updates_of_sami_whatever_the_layout():
    """One layout that changes everything at once; `matrix.py` trains each."""
    losses, rows = alone(Layout(task="sami"))
    layout = Layout(task="sami", data=2, fsdp=2, tensor=2, accumulate=2, remat="blocks")
    ours, seen = layouts.train(layout)
    assert layouts.difference(ours, losses) <= matrix.BOUND
    cfg = layouts.config(layout)
    assert rows == seen == layouts.expected_rows(cfg, 0, layouts.STEPS)[1]


@pytest.mark.slow
def test_twenty_updates_of_sami_in_bfloat16():
    """bfloat16 rounds by 2 ** -9; the parameters, their moments and every norm stay float32."""
    losses, rows = alone(Layout(task="sami"))
    ours, seen = layouts.train(Layout(task="sami", dtype="bfloat16"))
    assert seen == rows
    assert 2.0**-16 < layouts.difference(ours, losses) < 4 * 2.0**-9


@pytest.mark.slow
@pytest.mark.parametrize(
    "count, devices, runs",
    [
        (2, 2, [Layout(data=2, fsdp=2, accumulate=2), Layout(tensor=4)]),
        pytest.param(4, 1, [Layout(fsdp=4, accumulate=4)], marks=pytest.mark.nightly),
    ],
)
def test_twenty_updates_in_real_processes(count, devices, runs):
    losses, rows = alone(Layout())
    for ours, seen in matrix.in_processes(runs, count, devices):
        assert layouts.difference(ours, losses) <= matrix.BOUND
        assert seen == rows
