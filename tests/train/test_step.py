"""One update: what it minimises, how micro-batches add up, what it draws from, what it leaves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import toy

from esam_jax import sharding
from esam_jax.config import MeshConfig
from esam_jax.errors import ConfigError
from esam_jax.models.parts import batch_norm
from esam_jax.tasks.task import Task
from esam_jax.train import step
from esam_jax.typing import PerExample

MESH = sharding.make_mesh(MeshConfig(data=2))


def linear_task():
    """loss = w * x per example, so that the gradient is the weighted mean of x."""

    def loss(params, frozen, batch):
        each = params["m"]["norm"]["scale"] * batch["x"]
        return PerExample(each, batch["weight"], {"twice": 2 * each})

    return Task(
        init=lambda rng: {"m": {"norm": {"scale": jnp.float32(3.0)}}},
        loss=loss,
        example={},
        models=lambda *_: {},
    )


def gradient(task, params, batch, accumulate, rng=None):
    rng = jax.random.key(0) if rng is None else rng
    place = sharding.batch(MESH)
    return jax.jit(
        lambda params, batch: step.mean_gradient(task, params, {}, batch, rng, accumulate, place)[
            :2
        ]
    )(params, jax.device_put(batch, place))


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_weighted_mean_over_the_whole_batch(accumulate):
    x = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0], np.float32)
    weight = np.array([1.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 2.5], np.float32)
    grads, metrics = gradient(
        linear_task(), {"m": {"norm": {"scale": 3.0}}}, {"x": x, "weight": weight}, accumulate
    )
    mean = (1.0 * 1.0 + 0.5 * 16.0 + 2.5 * 128.0) / 4.0
    assert float(grads["m"]["norm"]["scale"]) == pytest.approx(mean)
    assert float(metrics["loss"]) == pytest.approx(3 * mean)
    assert float(metrics["twice"]) == pytest.approx(6 * mean)


def test_padding_alone_has_no_gradient():
    batch = {"x": np.ones(4, np.float32), "weight": np.zeros(4, np.float32)}
    grads, metrics = gradient(linear_task(), {"m": {"norm": {"scale": 3.0}}}, batch, 1)
    assert float(grads["m"]["norm"]["scale"]) == 0.0
    assert float(metrics["loss"]) == 0.0


def test_accumulation_changes_nothing_but_rounding():
    task, batch = toy.task(), toy.batch_of(0, 0, 24)
    params = task.init(jax.random.key(1))
    whole, whole_metrics = gradient(task, params, batch, 1)
    parts, metrics = gradient(task, params, batch, 3)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts)):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7)  # sums in another order
    for name, value in whole_metrics.items():
        assert float(metrics[name]) == pytest.approx(float(value), rel=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_draws_do_not_depend_on_how_the_batch_is_cut(accumulate):
    def loss(params, frozen, batch):
        return PerExample(params["m"] * batch["x"] * batch["drawn"], batch["x"], {})

    def draw(rng, images):
        return {"drawn": jax.random.normal(rng, (images,))}

    task = Task(loss=loss, init=dict, example={}, models=dict, draw=draw)
    rng, x = jax.random.key(7), np.arange(1.0, 9.0, dtype=np.float32)
    grads, _ = gradient(task, {"m": 1.0}, {"x": x}, accumulate, rng)
    drawn = np.asarray(jax.random.normal(rng, (8,)))
    assert float(grads["m"]) == pytest.approx(float(np.sum(x**2 * drawn) / x.sum()), rel=1e-5)


def test_micro_batches_stay_where_they_are():
    place = sharding.batch(MESH)
    x = jax.device_put(np.arange(24).reshape(12, 2), place)
    cut = jax.jit(lambda x: step.micro_batches(x, 3, place))
    parts = cut(x)
    assert parts.shape == (3, 4, 2)
    np.testing.assert_array_equal(parts[1], np.asarray(x)[[1, 4, 7, 10]])
    # Device k holds the same examples before and after: no collective is needed.
    assert "all-" not in cut.lower(x).compile().as_text()


@pytest.fixture(scope="module")
def trained():
    """Forty updates of the toy task; `trained()` runs the same compiled update from the start."""
    cfg, task = toy.config(steps=40, batch=16), toy.task(noise=0.1)
    template = toy.abstract(task, cfg, MESH)
    frozen = {"scale": jax.device_put(jnp.float32(1.0), sharding.replicated(MESH))}
    update = toy.jit_step(task, cfg, MESH, template, frozen)

    def run(steps, scale=1.0):
        state, batches, history = (
            toy.create(task, cfg, MESH),
            toy.stream(cfg, MESH),
            [],
        )
        weights = {"scale": jax.device_put(jnp.float32(scale), sharding.replicated(MESH))}
        before = jax.tree.leaves(state.params)
        for _ in range(steps):
            state, metrics = update(state, weights, next(batches))
            history.append(jax.device_get(metrics))
        assert all(leaf.is_deleted() for leaf in before)  # the old state is consumed ...
        assert float(weights["scale"]) == scale  # ... and what is frozen never
        return jax.device_get(state), history

    return run


def test_learns_and_reports(trained):
    state, history = trained(40)
    assert int(state.step) == 40
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    # The first update has rate 0 (warm-up), the third the peak.
    assert [float(m["learning_rate"]) for m in history[:3]] == pytest.approx([0.0, 5e-3, 1e-2])
    assert history[0]["update_ratio"] == 0.0 < history[1]["update_ratio"] < 0.1
    squares = sum(float(np.sum(np.square(x))) for x in jax.tree.leaves(state.params))
    assert float(history[-1]["param_norm"]) == pytest.approx(squares**0.5, rel=1e-5)
    assert history[0]["grad_norm"] > 0


def test_a_run_repeats_to_the_bit(trained):
    (first, first_history), (again, again_history) = trained(3), trained(3)
    assert first_history == again_history
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again)):
        np.testing.assert_array_equal(a, b)


def test_frozen_weights_take_part(trained):
    assert trained(1)[1][0]["loss"] != trained(1, scale=2.0)[1][0]["loss"]


# ---------------------------------------------------------------------- a part of the parameters


def partly(path):
    """The second block, less one bias."""
    return "/block_01/" in path and not path.endswith("out/bias")


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_gradient_of_a_part_is_that_part_of_the_gradient(accumulate):
    task, batch = toy.task(), toy.batch_of(0, 0, 24)
    params = task.init(jax.random.key(1))
    every, metrics = gradient(task, params, batch, accumulate)
    part = dataclasses.replace(task, trains=partly)
    some, its_metrics = gradient(part, params, batch, accumulate)
    mlp = every["toy"]["encoder"]["block_01"]["mlp"]
    wanted = {"hidden": mlp["hidden"], "out": {"kernel": mlp["out"]["kernel"]}}
    wanted = {"toy": {"encoder": {"block_01": {"mlp": wanted}}}}
    assert jax.tree.structure(some) == jax.tree.structure(wanted)
    # The same sums; compiled without the rest they may be added up in another order.
    for a, b in zip(jax.tree.leaves((some, its_metrics)), jax.tree.leaves((wanted, metrics))):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)


def test_what_is_frozen_has_no_moments_and_keeps_its_bits():
    cfg = toy.config(steps=5, batch=16)
    cfg = dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, clip_norm=0.5))
    task = dataclasses.replace(toy.task(noise=0.1), trains=partly)
    state = toy.create(task, cfg, MESH)
    update, batches = toy.jit_step(task, cfg, MESH, state, {}), toy.stream(cfg, MESH)
    before = jax.device_get(state.params)
    for _ in range(5):
        state, metrics = update(state, {}, next(batches))
    after = jax.device_get(state)
    moments = [sharding.name(p) for p, _ in jax.tree_util.tree_leaves_with_path(after.opt_state)]
    moments = [name for name in moments if "block_" in name]
    assert len(moments) == 2 * 3 and all("/block_01/mlp/" in name for name in moments)
    assert jax.tree.structure(after.params) == jax.tree.structure(before)
    squares = 0.0
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(after.params), jax.tree.leaves(before), strict=True
    ):
        assert np.array_equal(a, b) != partly(sharding.name(path)), sharding.name(path)
        squares += float(np.sum(np.square(a))) * partly(sharding.name(path))
    # The numbers of a line are of what is trained.
    metrics = jax.device_get(metrics)
    assert float(metrics["param_norm"]) == pytest.approx(squares**0.5, rel=1e-5)
    assert metrics["update_ratio"] > 0


def test_a_frozen_part_takes_no_work_of_the_backward_pass():
    """The first block is read, but nothing behind it is differentiated with respect to it."""
    task, batch = toy.task(), toy.batch_of(0, 0, 24)
    params = task.init(jax.random.key(1))

    def products(task):
        rng, place = jax.random.key(0), sharding.batch(MESH)
        traced = jax.make_jaxpr(
            lambda params, batch: step.mean_gradient(task, params, {}, batch, rng, 1, place)
        )(params, batch)
        return str(traced).count("dot_general")

    # Forward 4; the gradient of 4 kernels, and of what 3 of them take.
    assert products(task) == 4 + 4 + 3
    # Of 2 kernels, and of what the last takes.
    assert products(dataclasses.replace(task, trains=partly)) == 4 + 2 + 1


# ------------------------------------------------------------------------------ running averages


def averaged_task():
    """A mean that is learned, of examples less their running average, which nothing trains."""

    def init(rng):
        return {"m": {"x_norm": {"mean": jnp.full(3, 2.0)}, "out": {"kernel": jnp.ones(3)}}}

    def loss(params, frozen, batch):
        (norm, out), x = (params["m"][name] for name in ("x_norm", "out")), batch["x"]
        each = jnp.square((x - norm["mean"]) @ out["kernel"])
        moments = {"m": {"x_norm": {"mean": x.mean(0) * batch["spoil"].max()}}}
        return PerExample(each, jnp.ones_like(each), {}, moments)

    return Task(
        init=init,
        loss=loss,
        example={},
        models=lambda *_: {},
        trains=lambda path: not batch_norm.is_statistic(path),
    )


@pytest.fixture(scope="module")
def averaged():
    """Updates of `averaged_task`, from batches and what multiplies the statistics of each."""
    cfg, task = toy.config(batch=4), averaged_task()
    update = toy.jit_step(task, cfg, MESH, toy.abstract(task, cfg, MESH), {})

    def run(batches, spoils):
        state = toy.create(task, cfg, MESH)
        for x, spoil in zip(batches, spoils, strict=True):
            batch = {"x": x, "spoil": np.full(4, spoil, np.float32)}
            state, _ = update(state, {}, jax.device_put(batch, sharding.batch(MESH)))
        return jax.device_get(state)

    return run


def test_running_averages_follow_the_batches_and_nothing_else_moves_them(averaged):
    x = np.random.default_rng(0).normal(size=(3, 4, 3)).astype(np.float32)
    state, average = averaged(x, [1, 1, 1]), np.full(3, 2.0)
    for batch in x:  # as PyTorch does it, momentum 0.1
        average = 0.9 * average + 0.1 * batch.mean(0)
    np.testing.assert_allclose(state.params["m"]["x_norm"]["mean"], average, rtol=1e-5)
    assert not np.allclose(state.params["m"]["out"]["kernel"], 1)  # which is trained
    moments = {
        sharding.name(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)
    }
    assert any("out/kernel" in path for path in moments)
    assert not any("x_norm" in path for path in moments)


@pytest.mark.parametrize("spoil", [np.nan, np.inf])
def test_an_update_that_is_skipped_leaves_the_averages_as_they_are(averaged, spoil):
    """A statistic may be infinite where loss and gradient are finite: all is skipped then."""
    x = np.random.default_rng(1).normal(size=(2, 4, 3)).astype(np.float32)
    before, after = averaged(x[:1], [1]), averaged(x, [1, spoil])
    assert after.guard.skipped == 1 and before.guard.skipped == 0
    for a, b in zip(*(jax.tree.leaves((s.params, s.opt_state)) for s in (before, after))):
        np.testing.assert_array_equal(a, b)


def test_statistics_of_a_batch_that_is_cut_are_refused():
    batch = {"x": np.ones((4, 3), np.float32), "spoil": np.ones(4, np.float32)}
    params = averaged_task().init(None)
    assert gradient(averaged_task(), params, batch, 1)[0].keys() == {"m"}
    with pytest.raises(ConfigError, match=r"accumulate is 2, but .* --task\.batch-norm stored"):
        gradient(averaged_task(), params, batch, 2)
