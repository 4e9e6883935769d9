"""Thresholds, choice and run lengths of an answer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import nano

from esam_jax.errors import DeviceMemoryError
from esam_jax.models import named
from esam_jax.ops import regions
from esam_jax.predict import fetch, frames, programs
from esam_jax.predict.masks import Masks
from esam_jax.predict.prompt import Prompt

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


def on_device(name: str) -> Masks:
    """The same answer, as if it were still there."""
    host = answer(name)
    return Masks(jnp.asarray(host.low_res), jnp.asarray(host.scores), HEIGHT, WIDTH, host.config)


@pytest.mark.parametrize("name", ["efficientsam_nano", "sam_nano"])
def test_it_does_not_matter_where_logits_lie(name: str):
    host, device = answer(name), on_device(name)
    np.testing.assert_array_equal(device.binary(), host.binary())
    np.testing.assert_array_equal(device.binary_on_device(), host.binary())
    assert device.rle() == host.rle() and device.best_rle()[1] == host.best_rle()[1]
    np.testing.assert_array_equal(device.logits, host.logits)
    assert isinstance(device.binary_on_device(), jax.Array)


def test_logits_stay_on_the_device_until_they_are_read():
    masks = on_device("sam_nano")
    for read in (Masks.best, Masks.rle, Masks.binary, repr, lambda masks: masks[1].best()):
        read(masks)
    assert isinstance(masks._rows.logits[0], jax.Array)
    assert masks.block_until_ready() is masks
    low_res = masks.low_res
    assert low_res is masks.low_res and type(low_res) is np.ndarray and low_res.flags.writeable
    assert type(masks.scores) is np.ndarray and masks.scores.dtype == np.float32
    # The device keeps nothing of them, and what is changed on the host counts.
    assert not any(isinstance(x, jax.Array) for x in (*masks._rows.logits, *masks._rows.scores))
    low_res[0] = -1
    assert not masks.binary()[0].any() and masks.binary()[1].any()


@pytest.mark.parametrize("make", [answer, on_device])
def test_some_queries_are_taken_as_of_an_array(make: Callable[[str], Masks]):
    masks = make("sam_nano")
    for some, wanted in (
        (masks[1], [1]),
        (masks[-2], [0]),
        (masks[1:], [1]),
        (masks[::-1], [1, 0]),
        (masks[np.array([True, False])], [0]),
        (masks[[1, 1, 0]], [1, 1, 0]),
        (masks[1:][0], [1]),
        (masks[:0], []),
        (masks[...], [0, 1]),
    ):
        assert len(some) == len(wanted) and (some.height, some.width) == (HEIGHT, WIDTH)
        np.testing.assert_array_equal(some.scores, masks.scores[wanted])
        np.testing.assert_array_equal(some.low_res, answer("sam_nano").low_res[wanted])
        np.testing.assert_array_equal(some.best()[1], masks.best()[1][wanted])
    assert [len(each) for each in masks] == [1, 1]
    for wrong in (2, -3):
        with pytest.raises(IndexError, match=rf"masks\[{wrong}\] is .*: these are of 2 queries"):
            masks[wrong]
    for wrong in ((0, 1), None, [[0, 1]], "0", True, 1.0):
        with pytest.raises(IndexError, match="give an integer, a slice or one list"):
            masks[wrong]


def test_some_queries_hold_on_to_their_own_calls_alone():
    sam = nano.sam("sam_nano")
    prompts = [Prompt(points=[[i, i]]) for i in range(9)]
    masks = sam.segment(nano.picture(HEIGHT, WIDTH), prompts)
    assert [part.shape[1] for part in masks._rows.logits] == [8, 1]  # prompts of a call
    assert [part.shape[1] for part in masks[8:]._rows.logits] == [1]
    np.testing.assert_array_equal(masks[7:].low_res, masks.low_res[7:])


@jax.jit
def too_much(features: jax.Array) -> tuple[jax.Array, jax.Array]:
    """An answer of the decoder, were there memory for it: 256 TiB in between."""
    huge = jnp.sort(jnp.broadcast_to(features.ravel()[0], 2**46) + jnp.arange(2**46))
    return jnp.zeros((1, 1, 4, 32, 32)) + huge[0], jnp.zeros((1, 1, 4)) + huge[0]


@pytest.mark.parametrize(
    "read",
    [
        lambda masks: masks.scores,
        lambda masks: masks.low_res,
        lambda masks: masks.logits,
        *(Masks.best, Masks.rle, Masks.binary, Masks.block_until_ready, repr),
    ],
)
def test_a_full_device_is_reported_where_the_answer_is_read(
    monkeypatch: pytest.MonkeyPatch, read: Callable[[Masks], Any]
):
    """The call of the decoder returns, and then its computation fails."""
    sam, picture = nano.sam("sam_nano"), nano.picture(HEIGHT, WIDTH)
    embedding, prompt = sam.encode(picture), Prompt(points=[[1, 1]])
    with monkeypatch.context() as patched:
        patched.setattr(programs, "decode", lambda model, params, *arrays: too_much(arrays[0]))
        # As on an accelerator, which nobody waits for.
        patched.setattr(fetch, "one_at_a_time", lambda result: result)
        masks = sam.decode(embedding, prompt)
        with pytest.raises(DeviceMemoryError, match="fewer pictures or prompts"):
            read(masks)
    read(sam.decode(embedding, prompt))
