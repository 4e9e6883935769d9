"""RandAugment's operations to the byte, and how often and how strongly they are drawn."""

import collections
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from esam_jax.config import RandAugmentConfig
from esam_jax.data.views import rand_augment

GOLDEN = np.load(pathlib.Path(__file__).parents[2] / "golden" / "classification_a.npz")
ARGUMENTS = json.loads(str(GOLDEN["meta"]))["notes"]["aug arguments"]
PICTURE = Image.fromarray(GOLDEN["aug/image"])


def test_all_operations_have_pictures():
    assert {name.split("_")[0] for name in ARGUMENTS} == rand_augment.OPERATIONS.keys()
    assert len(rand_augment.OPERATIONS) == 15


@pytest.mark.parametrize("name", ARGUMENTS)
def test_pictures_are_timms_to_the_byte(name):
    operation, magnitude, sign = name.split("_")
    apply, strength = rand_augment.OPERATIONS[operation]
    arguments = strength(int(magnitude[1:]) / 10, 1 if sign == "p" else -1)
    assert list(arguments) == ARGUMENTS[name]
    assert np.array_equal(np.asarray(apply(PICTURE, *arguments)), GOLDEN[f"aug/{name}"])


def test_a_factor_leaves_a_tenth_at_least():
    """timm 1.0; its first versions make a grey picture of magnitude 10."""
    _, strength = rand_augment.OPERATIONS["ColorIncreasing"]
    assert strength(1.0, -1) == (0.1,) and strength(1.0, 1) == (1.9,)


def _applied(monkeypatch, config, draws=2000):
    """(operation, share of the strongest, sign) of each that was applied, for each picture."""
    noted = []

    def watched(name):
        def strength(share, sign):
            noted[-1].append((name, share, sign))
            return ()

        return lambda picture: picture, strength

    operations = {name: watched(name) for name in rand_augment.OPERATIONS}
    monkeypatch.setattr(rand_augment, "OPERATIONS", operations)
    for seed in range(draws):
        noted.append([])
        rand_augment.augmented(np.random.default_rng(seed), PICTURE, config)
    return noted


def test_operations_are_drawn_evenly_and_applied_every_other_time(monkeypatch):
    noted = _applied(monkeypatch, RandAugmentConfig(operations=2))
    counts = collections.Counter(map(len, noted))
    shares = [counts[number] / len(noted) for number in (0, 1, 2)]
    np.testing.assert_allclose(shares, [0.25, 0.5, 0.25], atol=0.05)
    names = collections.Counter(name for each in noted for name, *_ in each)
    assert names.keys() == rand_augment.OPERATIONS.keys()
    assert max(names.values()) < 1.6 * min(names.values())
    # With replacement: the same twice is a fifteenth of the pairs.
    twice = np.mean([each[0][0] == each[1][0] for each in noted if len(each) == 2])
    assert 0.03 < twice < 0.11
    signs = [sign for each in noted for *_, sign in each]
    assert abs(np.mean(signs)) < 0.06 and {*signs} == {-1, 1}


def test_magnitudes_are_normal_and_cut(monkeypatch):
    noted = _applied(monkeypatch, RandAugmentConfig(operations=3, magnitude=4.0, deviation=0.5))
    shares = np.array([share for each in noted for _, share, _ in each])
    assert shares.mean() == pytest.approx(0.4, abs=0.005)
    assert shares.std() == pytest.approx(0.05, abs=0.003)


def test_magnitudes_are_cut_at_both_ends(monkeypatch):
    noted = _applied(monkeypatch, RandAugmentConfig(magnitude=5.0, deviation=20.0), draws=200)
    shares = [share for each in noted for _, share, _ in each]
    assert min(shares) == 0 and max(shares) == 1


def test_the_same_draws_give_the_same_picture():
    one, again, other = (
        np.asarray(rand_augment.augmented(np.random.default_rng(s), PICTURE, RandAugmentConfig()))
        for s in (1, 1, 4)
    )
    assert np.array_equal(one, again) and not np.array_equal(one, other)
