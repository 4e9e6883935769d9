"""Logistic regression against a slow solver, and how its strength is chosen."""

import numpy as np
import pytest

from esam_jax.evaluate import linear_probe


def drawn(seed=0, count=120, width=5, classes=3, noise=1.5):
    """Features around a centre for each class, which overlap."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count).astype(np.int32)
    centres = rng.normal(size=(classes, width))
    values = centres[labels] + noise * rng.normal(size=(count, width))
    return values.astype(np.float32), labels


def newton(x, labels, classes, strength):
    """The minimum by Newton's method in float64, the Hessian written out."""
    x = np.concatenate([x.astype(np.float64), np.ones((len(x), 1))], 1)
    width, target = x.shape[1], np.eye(classes)[labels]
    penalty = np.diag(np.repeat([*[strength] * (width - 1), 0.0], classes))
    matrix = np.zeros((width, classes))
    for _ in range(50):
        logits = x @ matrix
        shares = np.exp(logits - logits.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        slope = (x.T @ (shares - target)).ravel() + penalty @ matrix.ravel()
        hessian = penalty.copy()
        for row, share in zip(x, shares, strict=True):
            hessian += np.kron(np.outer(row, row), np.diag(share) - np.outer(share, share))
        # Biases may all rise together: the least step of those that are as good.
        matrix -= np.linalg.lstsq(hessian, slope, rcond=1e-12)[0].reshape(matrix.shape)
    return matrix[:-1], matrix[-1]


@pytest.mark.parametrize("strength", [0.1, 3.0, 100.0])
def test_the_minimum_is_that_of_newtons_method(strength):
    x, labels = drawn()
    weights, bias = linear_probe.fitted(x, labels, 3, strength)
    slow_weights, slow_bias = newton(x, labels, 3, strength)
    # The gradient of the mean loss is below 1e-5, and its curvature about 1e-2 and more.
    np.testing.assert_allclose(weights, slow_weights, atol=2e-3)
    np.testing.assert_allclose(bias, slow_bias, atol=2e-3)


def test_many_parts_find_what_one_does(monkeypatch):
    """The last of which is not full."""
    x, labels = drawn(count=101)
    one = linear_probe.fitted(x, labels, 3, 1.0)
    monkeypatch.setattr(linear_probe, "_ROWS", 2)
    many = linear_probe.fitted(x, labels, 3, 1.0)
    for a, b in zip(one, many, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_features_of_any_scale_are_as_good():
    """And one that never varies says nothing."""
    x, labels = drawn()
    scaled = np.concatenate([1e3 * x + 50, np.full((len(x), 1), 7, np.float32)], 1)
    plain, other = (linear_probe.learned(each, labels, 3, 0) for each in (x, scaled))
    assert plain.strength == other.strength
    np.testing.assert_allclose(plain.logits(x), other.logits(scaled), atol=0.02)
    assert linear_probe.learned(x, labels, 3, 0).weights.tolist() == plain.weights.tolist()


def test_noise_needs_the_stronger_penalty():
    """Fifty useless features beside few pictures; the grid is finest around the best."""
    x, labels = drawn(count=60, noise=0.8)
    useless = np.random.default_rng(1).normal(size=(60, 50)).astype(np.float32)
    clear = linear_probe.learned(np.repeat(x, 3, 0), np.repeat(labels, 3), 3, 0)
    noisy = linear_probe.learned(np.concatenate([x, useless], 1), labels, 3, 0)
    assert noisy.strength > clear.strength
    powers = np.log10([*noisy.tried])
    assert {-6, -4, -2, 0, 2, 4, 6} <= {*powers.round(3).tolist()}
    best = np.log10(noisy.strength)
    assert np.abs(powers - best).tolist().count(0) == 1
    assert any(np.isclose(abs(powers - best), 0.125))
    assert noisy.tried[noisy.strength] == max(noisy.tried.values())


def test_a_fifth_of_each_class_is_held_out():
    labels = np.array([0] * 20 + [1] * 2 + [2])
    chosen = linear_probe.held_out(labels, 0)
    assert [chosen[labels == each].sum() for each in range(3)] == [4, 1, 0]
    assert not np.array_equal(chosen, linear_probe.held_out(labels, 1))


def test_one_picture_of_each_class_is_learned_from_without_a_choice():
    found = linear_probe.learned(np.eye(3, dtype=np.float32), np.arange(3, dtype=np.int32), 3, 0)
    assert found.strength == 1 and not found.tried
    assert found.logits(np.eye(3, dtype=np.float32)).argmax(1).tolist() == [0, 1, 2]
