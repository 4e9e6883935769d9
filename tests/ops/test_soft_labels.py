"""Soft labels, mixtures and CutMix's rectangles against timm's, and what must hold of any."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.ops import rectangles, soft_labels

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "classification_a.npz")
LOGITS = jnp.asarray(GOLDEN["loss/logits"])
CLASSES = 10


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("name, smoothing", [("targets", 0.1), ("targets_no_smoothing", 0.0)])
def test_labels_are_timms(number, name, smoothing):
    wanted = GOLDEN[f"soft/{name}"][number]
    share = jnp.full(len(wanted), GOLDEN["soft/lambda"][number], jnp.float32)
    smoothed = soft_labels.smoothed(jnp.asarray(GOLDEN["soft/labels"]), CLASSES, smoothing)
    np.testing.assert_allclose(soft_labels.mixed(smoothed, share), wanted, rtol=0, atol=1e-7)


@pytest.mark.parametrize("number", range(5))
def test_losses_are_timms(number):
    found = soft_labels.cross_entropy(LOGITS, jnp.asarray(GOLDEN["soft/targets"][number]))
    assert found.mean() == pytest.approx(GOLDEN["loss/soft_target"][number], abs=1e-6)


def test_without_a_mixture_the_loss_is_that_of_smoothed_labels():
    target = soft_labels.smoothed(jnp.asarray(GOLDEN["soft/labels"]), CLASSES, 0.1)
    found = soft_labels.cross_entropy(LOGITS, target)
    assert found.mean() == pytest.approx(float(GOLDEN["loss/label_smoothing"]), abs=1e-6)


def test_the_loss_of_bfloat16_logits_is_taken_in_float32():
    logits = LOGITS.astype(jnp.bfloat16)
    target = jnp.asarray(GOLDEN["soft/targets"][1])
    found = soft_labels.cross_entropy(logits, target)
    assert found.dtype == jnp.float32
    rounded = soft_labels.cross_entropy(logits.astype(jnp.float32), target)
    assert np.array_equal(found, rounded)


@pytest.mark.parametrize("row", GOLDEN["cutmix/rows"], ids=lambda row: f"{row[0]:.3f}")
def test_rectangles_of_cutmix_are_those_of_timm_0_3_2(row):
    share, y, x, y0, y1, x0, x1, left = row[:8]
    box, kept = soft_labels.cut(jnp.float32(share), jnp.int32(y), jnp.int32(x), 224, 224)
    assert box.tolist() == [y0, x0, y1, x1]
    assert kept == pytest.approx(left, abs=1e-7)


@given(
    share=st.floats(0, 1, width=32),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    data=st.data(),
)
def test_the_share_that_a_rectangle_leaves_is_that_of_its_pixels(share, size, data):
    height, width = size
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box, kept = soft_labels.cut(jnp.float32(share), jnp.int32(y), jnp.int32(x), height, width)
    hidden = np.asarray(rectangles.inside(box[None], height, width)).mean()
    assert float(kept) == pytest.approx(1 - hidden, abs=1e-6)
    assert hidden <= 1 - share + 1e-6


def test_pictures_are_mixed_as_timm_mixes_them():
    images = jnp.asarray(GOLDEN["mix/images"])
    rows = len(images)
    everything = jnp.tile(rectangles.EVERYTHING, (rows, 1))
    mixup = soft_labels.mixed_inside(images, jnp.full(rows, 0.3, jnp.float32), everything)
    np.testing.assert_allclose(mixup, GOLDEN["mix/mixup_0.3"], rtol=0, atol=1e-7)
    box = jnp.tile(jnp.array([2, 1, 6, 5]), (rows, 1))
    cutmix = soft_labels.mixed_inside(images, jnp.zeros(rows), box)
    assert np.array_equal(cutmix, GOLDEN["mix/cutmix_box_2_6_1_5"])


@given(
    labels=st.lists(st.integers(0, 6), min_size=1, max_size=8),
    smoothing=st.floats(0, 0.9),
    data=st.data(),
)
def test_soft_labels_are_distributions_whose_mass_the_mixture_keeps(labels, smoothing, data):
    share = data.draw(st.floats(0, 1, width=32))
    smoothed = soft_labels.smoothed(jnp.asarray(labels), 7, smoothing)
    mixed = np.asarray(soft_labels.mixed(smoothed, jnp.full(len(labels), share)))
    np.testing.assert_allclose(mixed.sum(1), 1, atol=1e-6)
    assert mixed.min() >= 0
    np.testing.assert_allclose(mixed.sum(0), np.asarray(smoothed).sum(0), atol=1e-5)
    # Two pictures of one pair change places when the shares do.
    other = np.asarray(soft_labels.mixed(smoothed, jnp.full(len(labels), 1 - share)))
    np.testing.assert_allclose(mixed, other[::-1], atol=1e-6)


def test_rows_may_be_mixed_differently():
    x = jnp.arange(6.0).reshape(3, 2)
    found = jax.jit(soft_labels.mixed)(x, jnp.array([1.0, 0.25, 0.5]))
    np.testing.assert_allclose(found, [[0, 1], [2, 3], [2, 3]])
