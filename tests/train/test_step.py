"""One update: what it minimises, how micro-batches add up, what it draws from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import toy

from esam_jax import sharding
from esam_jax.config import MeshConfig
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
        lambda params, batch: step.mean_gradient(task, params, {}, batch, rng, accumulate, place)
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
