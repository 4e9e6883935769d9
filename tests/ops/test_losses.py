"""Losses against their formulas and in the corners where formulas overflow."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esam_jax.ops import losses

RNG = np.random.default_rng(0)


def test_feature_losses_are_one_value_per_example():
    pred, target = RNG.normal(size=(2, 3, 5, 7, 4)).astype(np.float32)
    mse = losses.feature_mse(jnp.asarray(pred), jnp.asarray(target))
    np.testing.assert_allclose(mse, ((pred - target) ** 2).mean((1, 2, 3)), rtol=1e-5)
    cosine = (pred * target).sum(-1) / np.linalg.norm(pred, axis=-1)
    cosine /= np.linalg.norm(target, axis=-1)
    found = losses.feature_cosine(jnp.asarray(pred), jnp.asarray(target))
    np.testing.assert_allclose(found, (1 - cosine).mean((1, 2)), rtol=1e-5)


def test_distillation_losses_are_the_golden_ones():
    """All tokens, the class token included, after the golden case's own projection."""
    case = np.load(pathlib.Path(__file__).parent.parent / "golden" / "distillation_a.npz")
    pred = jnp.asarray(case["student"] @ case["weight"].T + case["bias"])
    golden = {
        "mse": "mse",
        "l1": "plain_l1",
        "cosine": "one_minus_cosine",
        "unit_mse": "dmae_l2_normalised",
        "unit_l1": "dmae_l1_normalised",
    }
    assert golden.keys() == losses.FEATURES.keys()
    for name, theirs in golden.items():
        found = losses.FEATURES[name](pred, jnp.asarray(case["teacher"])).mean()
        np.testing.assert_allclose(found, case[theirs], rtol=1e-6, err_msg=name)


def test_cosine_of_scaled_opposed_and_zero_features():
    x = jnp.asarray(RNG.normal(size=(1, 4, 6)), jnp.float32)
    assert abs(losses.feature_cosine(x, 3 * x)[0]) < 1e-6
    assert abs(losses.feature_cosine(x, -x)[0] - 2) < 1e-6
    gradient = jax.grad(lambda y: losses.feature_cosine(y, x)[0])(jnp.zeros_like(x))
    assert np.isfinite(gradient).all()


def test_features_are_compared_in_float32():
    pred = jnp.full((1, 1, 4096), 1.0, jnp.bfloat16)
    assert losses.feature_mse(pred, jnp.zeros_like(pred))[0] == 1.0


def test_masked_mse_is_over_the_removed_patches_of_each_image():
    pred, target = RNG.normal(size=(2, 2, 7, 4)).astype(np.float32)
    masked = np.array([[6, 1, 3], [0, 5, 2]])
    found = losses.masked_mse(jnp.asarray(pred), jnp.asarray(target), jnp.asarray(masked))
    error = ((pred - target) ** 2).mean(-1)
    np.testing.assert_allclose(found, [error[b, masked[b]].mean() for b in (0, 1)], rtol=1e-6)


def test_focal_is_the_formula():
    logits = RNG.normal(size=(2, 3, 5, 7)).astype(np.float32) * 3
    target = RNG.random((2, 3, 5, 7)) > 0.5
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    right = np.where(target, p, 1 - p)
    alpha = np.where(target, 0.25, 0.75)
    expected = (-alpha * (1 - right) ** 2 * np.log(right)).mean((-2, -1))
    found = losses.focal(jnp.asarray(logits), jnp.asarray(target))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_dice_is_the_formula():
    logits = RNG.normal(size=(2, 5, 7)).astype(np.float32) * 3
    target = RNG.random((2, 5, 7)) > 0.5
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = [1 - (2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1) for a, b in zip(p, target)]
    found = losses.dice(jnp.asarray(logits), jnp.asarray(target))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", [losses.focal, losses.dice])
def test_certain_logits_give_finite_losses_and_gradients(loss):
    target = jnp.asarray([[[True, False], [True, False]]])
    right = jnp.where(target, 1e4, -1e4)
    assert loss(right, target)[0] < 1e-6
    value, gradient = jax.value_and_grad(lambda x: loss(x, target)[0])(-right)
    assert value > 0.5 and np.isfinite(gradient).all()


def test_an_empty_mask_predicted_empty_costs_nothing():
    empty = jnp.zeros((1, 4, 5))
    assert losses.dice(jnp.full((1, 4, 5), -1e4), empty)[0] == 0


def test_mask_iou_counts():
    a, b = RNG.random((2, 3, 5, 7)) > 0.5
    expected = [(x & y).sum() / (x | y).sum() for x, y in zip(a, b)]
    np.testing.assert_allclose(losses.mask_iou(jnp.asarray(a), jnp.asarray(b)), expected)
    empty = jnp.zeros((1, 5, 7), bool)
    assert losses.mask_iou(empty, empty)[0] == 0
