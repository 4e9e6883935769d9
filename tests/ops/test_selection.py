"""Stability, boxes and suppression: segment-anything's numbers, and a slow obvious version."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.ops import selection

ARRAYS = np.load(Path(__file__).parents[1] / "golden" / "everything.npz")
LOGITS = ARRAYS["stability/logits"]


@pytest.mark.parametrize(("threshold", "offset"), [(0.0, 1.0), (0.0, 0.5), (0.5, 1.5)])
def test_stability_is_that_of_the_original(threshold: float, offset: float):
    wanted = ARRAYS[f"stability/thr{threshold}_off{offset}"]
    got = np.asarray(selection.stability(jnp.asarray(LOGITS), threshold, offset))
    assert got.dtype == np.float32 and np.isnan(wanted).any()
    np.testing.assert_array_equal(got, wanted)


def test_boxes_are_those_of_the_original():
    masks = ARRAYS["masks"]
    np.testing.assert_array_equal(selection.boxes(jnp.asarray(masks)), ARRAYS["mask_to_box/nhw"])
    assert (
        selection.boxes(jnp.asarray(masks[0])).tolist()
        == ARRAYS["mask_to_box/hw_of_mask_0"].tolist()
    )
    stacked = masks.reshape(4, 2, *masks.shape[1:])
    np.testing.assert_array_equal(
        selection.boxes(jnp.asarray(stacked)), ARRAYS["mask_to_box/4x2hw"]
    )


def kept(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    order, alive = jax.jit(selection.nms, static_argnums=2)(boxes, scores, threshold)
    return np.asarray(order)[np.asarray(alive)].tolist()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.9])
def test_suppression_keeps_what_the_original_keeps(threshold: float):
    wanted = ARRAYS[f"nms/keep_{threshold}"].tolist()
    assert kept(ARRAYS["nms/boxes"], ARRAYS["nms/scores"], threshold) == wanted


def test_an_overlap_equal_to_the_threshold_stays_and_so_does_an_empty_box():
    boxes = ARRAYS["nms/exact_boxes"]
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    assert kept(boxes, scores, 0.5) == ARRAYS["nms/exact_keep_0.5"].tolist()


def test_padding_neither_stays_nor_suppresses():
    boxes, scores = ARRAYS["nms/boxes"], ARRAYS["nms/scores"]
    padded = np.concatenate([boxes, boxes[:9]])
    low = np.concatenate([scores, np.full(9, -np.inf, np.float32)])
    assert kept(padded, low, 0.5) == kept(boxes, scores, 0.5)


def plain(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """The published algorithm in a row of Python, float32 overlaps against a float64 threshold."""
    left = sorted(range(len(scores)), key=lambda i: -scores[i])
    done: list[int] = []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    while left:
        best, *left = left
        done.append(best)
        rest = []
        for i in left:
            wide = min(boxes[best, 2], boxes[i, 2]) - max(boxes[best, 0], boxes[i, 0])
            high = min(boxes[best, 3], boxes[i, 3]) - max(boxes[best, 1], boxes[i, 1])
            inside = max(wide, np.float32(0)) * max(high, np.float32(0))
            with np.errstate(invalid="ignore"):
                overlap = np.float32(inside / (areas[best] + areas[i] - inside))
            if not float(overlap) > threshold:
                rest.append(i)
        left = rest
    return done


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0]))
def test_suppression_is_the_published_algorithm(seed: int, threshold: float):
    boxes, scores = drawn(seed)
    assert kept(boxes, scores, threshold) == plain(boxes, scores, threshold)


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 8, (24, 2, 2))  # small whole numbers: ties and equal overlaps abound
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1).astype(np.float32)
    return boxes, rng.integers(0, 5, 24).astype(np.float32)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.5]), st.integers(0, 2**24 - 1))
def test_neither_blocks_nor_padding_nor_scores_of_nothing_change_it(
    seed: int, threshold: float, nothing: int
):
    boxes, scores = drawn(seed)
    some = np.array([nothing >> i & 1 == 0 for i in range(24)])
    scores[~some] = np.where(np.arange(24) % 2, np.nan, -np.inf)[~some]
    order, alive = blockwise(boxes, scores, threshold)
    places = np.flatnonzero(some)
    wanted = places[plain(boxes[some], scores[some], threshold)].tolist()
    assert np.asarray(order)[np.asarray(alive)].tolist() == wanted


@functools.partial(jax.jit, static_argnums=2)
def blockwise(boxes: Any, scores: Any, threshold: float) -> Any:
    with pytest.MonkeyPatch.context() as patch:  # while it is traced
        patch.setattr(selection, "_BLOCK", 7)
        return selection.nms(boxes, scores, threshold)


def test_a_chain_of_boxes_that_each_suppress_the_next():
    """As many steps as boxes: the most that a search for survivors of a block can take."""
    left = np.arange(40, dtype=np.float32)
    boxes = np.stack([left, 0 * left, left + 4, 0 * left + 4], axis=1)
    scores = np.linspace(1, 0, 40, dtype=np.float32)
    assert kept(boxes, scores, 0.5) == plain(boxes, scores, 0.5) == list(range(0, 40, 2))


def test_suppression_takes_no_step_for_each_box():
    """A loop over blocks of 1,024, and one within each until nothing changes."""
    arrays = np.zeros((3072, 4), np.float32), np.zeros(3072, np.float32)
    [outer] = loops(jax.make_jaxpr(selection.nms, static_argnums=2)(*arrays, 0.7).jaxpr)
    assert outer.primitive.name == "scan" and outer.params["length"] == 3
    assert [loop.primitive.name for loop in loops(outer.params["jaxpr"].jaxpr)] == ["while"]


def loops(jaxpr: Any) -> list[Any]:
    """Loops in it, those within functions that it calls included."""
    found = []
    for each in jaxpr.eqns:
        if each.primitive.name in ("while", "scan"):
            found.append(each)
        elif "jaxpr" in each.params:
            inner = each.params["jaxpr"]
            found += loops(getattr(inner, "jaxpr", inner))
    return found
