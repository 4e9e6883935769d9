"""Subsets: shares are nested and stable, limits mean what they say."""

import numpy as np
import pytest
from helpers import made_sets
from helpers.name_source import Names
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.data import sources
from esam_jax.datasets import subset
from esam_jax.datasets.subset import Rules
from esam_jax.errors import ConfigError

NAMES = st.lists(st.text(max_size=4), min_size=1, max_size=30, unique=True)
SHARES = st.floats(0.01, 1)


def chosen(names, **rules):
    return set(subset.choose(Names(tuple(names)), Rules(**rules)).names)


@given(NAMES, SHARES, SHARES, st.integers(0, 3))
def test_shares_of_one_seed_are_nested(names, one, other, seed):
    few, many = sorted((one, other))
    assert chosen(names, share=few, seed=seed) <= chosen(names, share=many, seed=seed)
    assert chosen(names, share=1.0, seed=seed) == set(names)


@given(NAMES, NAMES, SHARES)
def test_what_is_chosen_stays_when_pictures_are_added(names, more, share):
    after = chosen(dict.fromkeys([*more, *names]), share=share)
    assert chosen(names, share=share) == after & set(names)


def test_a_share_is_met_on_average_and_seeds_differ():
    names = tuple(f"sa_{i}.jpg" for i in range(20_000))
    found = [chosen(names, share=0.1, seed=seed) for seed in (0, 1)]
    assert all(abs(len(each) - 2000) < 5 * np.sqrt(20_000 * 0.1 * 0.9) for each in found)
    # Independent: a tenth of a tenth is in both.
    assert abs(len(found[0] & found[1]) - 200) < 5 * np.sqrt(200)


def test_the_names_that_are_chosen_never_change():
    """Lists are written down in papers: other hashes would be other subsets."""
    names = [f"sa_{i}.jpg" for i in range(60)]
    assert sorted(chosen(names, share=0.05, seed=0)) == GOLDEN


GOLDEN = ["sa_38.jpg"]


@pytest.mark.parametrize(
    "rules",
    [
        {"min_masks": 3},
        {"max_masks": 2},
        {"min_area": 200},
        {"max_area": 150},
        {"min_area": 30, "max_area": 400, "min_masks": 2, "max_masks": 3},
        {"max_area": 150, "max_masks": 0},
        {"min_area": 100, "min_masks": 0},
        {"share": 0.6, "min_masks": 2},
    ],
    ids=str,
)
def test_limits_are_those_of_dense_masks(rules, tmp_path):
    source = sources.open_source(sources.detect(str(made_sets.sa1b(tmp_path, 20))))
    found = subset.choose(source, Rules(**rules))
    low, high = rules.get("min_area", 1), rules.get("max_area", 10**9)
    by_area = "min_area" in rules or "max_area" in rules
    fewest = rules.get("min_masks", int(by_area and "max_masks" not in rules))
    most = rules.get("max_masks", 10**9)
    share = chosen([source.name(i) for i in range(20)], share=rules.get("share", 1.0))
    expected = [
        name
        for name in (source.name(i) for i in range(len(source)))
        if name in share
        and fewest
        <= sum(low <= mask.sum() <= high for mask in made_sets.masks(int(name[3:-4])))
        <= most
    ]
    assert list(found.names) == expected and found.in_share == len(share)
    assert rules == {"min_area": 100, "min_masks": 0} or 0 < len(expected) < 20


def test_broken_records_are_left_out_and_said(tmp_path):
    folder = made_sets.sa1b(tmp_path, 4)
    (folder / "sa_2.json").write_text("{")
    source = sources.open_source(sources.detect(str(folder)))
    found = subset.choose(source, Rules(min_masks=1))
    assert found.names == ("sa_0.jpg", "sa_1.jpg", "sa_3.jpg")
    (reason,) = found.broken
    assert reason.startswith("sa_2.jpg: ") and "sa_2.jpg is not valid JSON" in reason


def test_masks_of_a_source_without_any(tmp_path):
    source = sources.open_source(sources.detect(str(made_sets.image_folder(tmp_path, 2))))
    with pytest.raises(ConfigError, match="source without masks"):
        subset.choose(source, Rules(max_masks=3))


@pytest.mark.parametrize(
    "rules",
    [
        {"share": 0.0},
        {"share": 1.5},
        {"seed": -1},
        {"min_area": -1},
        {"max_masks": -2},
        {"min_area": 5, "max_area": 4},
        {"min_masks": 2, "max_masks": 1},
    ],
    ids=str,
)
def test_rules_that_make_no_sense(rules):
    with pytest.raises(ConfigError, match=f"--{next(iter(rules)).replace('_', '-')} is"):
        Rules(**rules)
