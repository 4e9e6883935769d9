"""Nearest neighbours and their votes against sorting."""

import numpy as np
import pytest

from esam_jax.evaluate import nearest_neighbours
from esam_jax.evaluate.nearest_neighbours import TEMPERATURE


def drawn(count, seed, width=6):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def by_sorting(known, labels, queries, classes, count):
    """The classes of each query that have a vote, the likeliest first."""
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (known, queries)]
    cosines = unit[1].astype(np.float64) @ unit[0].T.astype(np.float64)
    found = []
    for row in cosines:
        votes = np.zeros(classes)
        for place in sorted(range(len(row)), key=lambda i: -row[i])[:count]:
            votes[labels[place]] += np.exp(row[place] / TEMPERATURE)
        order = sorted(range(classes), key=lambda c: -votes[c])
        found.append([c if votes[c] else -1 for c in order])
    return found


@pytest.mark.parametrize(("at_once", "queries_at_once"), [(1000, 1000), (7, 2)])
def test_votes_are_those_of_sorting(monkeypatch, at_once, queries_at_once):
    """Whatever is compared at once; more neighbours than there are pictures are all pictures."""
    monkeypatch.setattr(nearest_neighbours, "_KNOWN", at_once)
    monkeypatch.setattr(nearest_neighbours, "_QUERIES", queries_at_once)
    monkeypatch.setattr(nearest_neighbours, "_VOTES", 10 * at_once)
    known, queries = drawn(40, 0), drawn(33, 1)
    labels = np.random.default_rng(2).integers(0, 5, 40).astype(np.int32)
    wanted = (5, 1, 100)
    results = nearest_neighbours.ranked(known, labels, queries, 5, wanted)
    for count, (found, used) in zip((5, 1, 40), results, strict=True):
        assert used == count
        assert found.tolist() == by_sorting(known, labels, queries, 5, count)


def test_of_equal_ones_the_first_is_nearer(monkeypatch):
    """In one part and in several."""
    vector = drawn(1, 0)
    known = np.repeat(vector, 30, 0)
    for at_once in (1000, 4):
        monkeypatch.setattr(nearest_neighbours, "_KNOWN", at_once)
        similar, places = nearest_neighbours.nearest(known, 3 * vector, 4)
        assert places.tolist() == [[0, 1, 2, 3]]
        np.testing.assert_allclose(similar, 1, atol=1e-6)


def test_features_of_zeros_are_like_nothing():
    known = np.concatenate([np.zeros((1, 6), np.float32), drawn(3, 0)])
    similar, places = nearest_neighbours.nearest(known, -known[1:2], 4)
    assert np.isfinite(similar).all() and sorted(places[0].tolist()) == [0, 1, 2, 3]
