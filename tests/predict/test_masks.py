"""Thresholds, choice and run lengths of an answer."""

import numpy as np
import pytest

from esam_jax.models import named
from esam_jax.ops import regions
from esam_jax.predict import frames
from esam_jax.predict.masks import Masks

HEIGHT, WIDTH = 20, 28


def answer(name: str, low_res: np.ndarray | None = None) -> Masks:
    rng = np.random.default_rng(1)
    low_res = rng.normal(size=(2, 3, 32, 32)).astype(np.float32) if low_res is None else low_res
    scores = np.array([[0.3, 0.9, 0.1], [0.2, 0.1, 1.2]], np.float32)[:, : low_res.shape[1]]
    return Masks(low_res, scores, HEIGHT, WIDTH, named.sam(name))


@pytest.mark.parametrize(("name", "inside"), [("efficientsam_nano", True), ("sam_nano", False)])
def test_a_logit_of_zero_is_inside_for_efficientsam_alone(name: str, inside: bool):
    masks = answer(name, np.zeros((2, 3, 32, 32), np.float32))
    assert (masks.binary() == inside).all() and (masks.best()[1] == inside).all()


@pytest.mark.parametrize("name", ["efficientsam_nano", "sam_nano"])
def test_everything_is_made_of_the_logits_at_full_size(name: str):
    masks = answer(name)
    logits = masks.logits
    assert logits.shape == (2, 3, HEIGHT, WIDTH) and logits.dtype == np.float32
    whole = frames.to_original(masks.low_res, HEIGHT, WIDTH, masks.config)
    np.testing.assert_allclose(logits, whole, atol=1e-5)
    np.testing.assert_array_equal(masks.binary(), logits > 0)
    indices, best = masks.best()
    assert indices.tolist() == [1, 2]
    np.testing.assert_array_equal(best, np.stack([logits[0, 1] > 0, logits[1, 2] > 0]))


def test_run_lengths_decode_to_the_masks():
    masks = answer("sam_nano")
    for query, expected in zip(masks.rle(), masks.binary(), strict=True):
        for rle, mask in zip(query, expected, strict=True):
            np.testing.assert_array_equal(regions.from_rle(rle), mask)
