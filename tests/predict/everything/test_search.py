"""Clicks as arrays, and the search for candidates: as one prompt after another gives them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import nano

from esam_jax.models.sam import network
from esam_jax.ops import grids
from esam_jax.predict import batches
from esam_jax.predict.everything import clicks, search
from esam_jax.predict.prompt import Prompt

SIZE = (50, 70)


@pytest.mark.parametrize("name", nano.NAMES)
@pytest.mark.parametrize("size", [SIZE, (1, 1), (3, 400)])
def test_clicks_are_those_of_prompts(size: tuple[int, int], name: str):
    config, (height, width) = nano.sam(name).config, size
    points = np.concatenate([grids.corners(5), grids.points(4)]) * [width, height]
    points = np.concatenate([points, [[width, height], [0, 0]]])  # which is clipped
    prompts = [Prompt(points=[point]).clipped(height, width) for point in points]
    wanted = [batches.query(prompt, config, height, width) for prompt in prompts]
    found = clicks.as_queries(points, config, height, width)
    for array, each in zip(found, zip(*wanted, strict=True), strict=True):
        np.testing.assert_array_equal(array, np.stack(each))
        assert array.dtype == each[0].dtype


@pytest.fixture(scope="module", params=nano.NAMES)
def case(request: pytest.FixtureRequest) -> Any:
    """A model, features, 20 clicks as queries, and all logits and scores one way."""
    sam = nano.sam(request.param)
    embedding = sam.encode(nano.picture(*SIZE))
    points = grids.points(5)[:20] * SIZE[::-1]
    masks = sam.decode(embedding, [Prompt(points=[point]) for point in points])
    queries = clicks.as_queries(points, sam.config, *SIZE)
    return sam, embedding.features, queries, masks.low_res, masks.scores


def found(case: Any, **options: Any) -> list[search.Passing]:
    sam, features, queries, _, _ = case
    return list(search.passing(sam, features, *queries, at_once=8, **options))


@pytest.mark.parametrize("candidates", ["all", "best"])
@pytest.mark.parametrize("share", [None, 0.5, 1.0])
def test_what_passes_is_found_in_its_order(case: Any, share: float | None, candidates: str):
    *_, logits, scores = case
    threshold = None if share is None else float(np.quantile(scores, share)) + 1e-4
    wanted = np.full(scores.shape, True) if threshold is None else scores > threshold
    if candidates == "best":
        wanted &= scores.argmax(1)[:, None] == np.arange(scores.shape[1])
    [part] = found(case, candidates=candidates, threshold=threshold)
    np.testing.assert_allclose(part.scores, scores, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(part.which, np.flatnonzero(wanted))
    flat = logits.reshape(-1, *logits.shape[2:])[part.which]
    np.testing.assert_allclose(part.logits[: len(flat)], flat, rtol=1e-5, atol=1e-5)
    assert (share == 1.0) == (len(flat) == 0)


@pytest.mark.parametrize("share", [None, 0.5])
def test_single_masks_are_those_of_mask_token_0(
    case: Any, share: float | None, monkeypatch: pytest.MonkeyPatch
):
    """One click after another through `decode`; the array on the device holds few at a time."""
    sam, features, (points, labels), *_ = case
    apply = jax.jit(lambda *x: sam.model.apply({"params": sam.params}, *x, method="decode"))
    each = [apply(features, points[None, [i]], labels[None, [i]]) for i in range(len(points))]
    logits, scores = (np.stack([np.asarray(x[k])[0, 0, 0] for x in each]) for k in (0, 1))
    threshold = None if share is None else float(np.quantile(scores, share)) + 1e-4
    wanted = np.arange(20) if threshold is None else np.flatnonzero(scores > threshold)
    monkeypatch.setattr(search, "_PASSING", 10)
    monkeypatch.setattr(search, "_CLICKS", 16)
    parts = found(case, candidates="single", threshold=threshold)
    assert sum(len(part.scores) for part in parts) == 20 and len(parts) > 1
    np.testing.assert_array_equal(np.concatenate([part.which for part in parts]), wanted)
    got = np.concatenate([part.scores for part in parts])
    np.testing.assert_allclose(got, scores[:, None], rtol=1e-5, atol=1e-6)
    drawn = np.concatenate([part.logits[: len(part.which)] for part in parts])
    np.testing.assert_allclose(drawn, logits[wanted], rtol=1e-5, atol=1e-5)


def test_more_masks_than_fit_are_found_by_more_calls(case: Any, monkeypatch: pytest.MonkeyPatch):
    [together] = found(case, candidates="all", threshold=None)
    monkeypatch.setattr(search, "_PASSING", 30)  # 24 of 8 clicks, and then no more
    monkeypatch.setattr(search, "_CLICKS", 16)
    parts = found(case, candidates="all", threshold=None)
    assert [(part.first, len(part.which)) for part in parts] == [(0, 24), (8, 24), (16, 12)]
    assert all(part.logits.shape[0] == 30 for part in parts)
    np.testing.assert_array_equal(np.concatenate([part.which for part in parts]), together.which)
    scores = np.concatenate([part.scores for part in parts])
    np.testing.assert_allclose(scores, together.scores, rtol=1e-6)
    logits = jnp.concatenate([part.logits[: len(part.which)] for part in parts])
    np.testing.assert_allclose(logits, together.logits[:60], rtol=1e-5, atol=1e-5)


def test_clicks_without_a_mask_that_passes_are_not_drawn(
    case: Any, monkeypatch: pytest.MonkeyPatch
):
    """One click at a time on a CPU: the program of the masks runs for each that needs it."""
    *_, scores = case
    drawn, draw = [], network.Sam.draw

    def watched(model: network.Sam, tokens: Any, image: Any) -> Any:
        jax.debug.callback(lambda tokens: drawn.append(len(tokens[0])), tokens)
        return draw(model, tokens, image)

    monkeypatch.setattr(network.Sam, "draw", watched)
    search.search.clear_cache()  # what was traced before draws unseen
    try:
        for share in (0.4, 1.0):
            threshold = float(np.quantile(scores.max(1), share)) + 1e-4
            found(case, candidates="all", threshold=threshold)
            jax.effects_barrier()
            assert drawn == [1] * int((scores > threshold).any(1).sum())
            assert (len(drawn) == 0) == (share == 1.0) and len(drawn) < len(scores)
            drawn.clear()
    finally:
        search.search.clear_cache()
