"""Clicks drawn in a saliency map, and the masks for them."""

import dataclasses
import inspect
import itertools

import numpy as np
import pytest
from helpers import nano

import esam_jax
from esam_jax.cli import evaluate_salient as cli_evaluate
from esam_jax.cli import salient as cli_salient
from esam_jax.errors import DataError, PromptError
from esam_jax.predict.zero_shot import salient as module
from esam_jax.predict.zero_shot.salient import Rules, checked_map, clicks, parts, salient

PICTURE = nano.picture(24, 40)


def two_blobs() -> np.ndarray:
    """Of 12 and 60 pixels, and a single pixel that touches the larger one at a corner."""
    found = np.zeros((24, 40), np.float32)
    found[2:5, 3:7] = 0.5
    found[10:16, 20:30] = 1
    found[16, 30] = 0.9
    return found


def test_clicks_lie_inside_and_are_as_many():
    found = two_blobs()
    for seed in range(20):
        (prompt,) = clicks(PICTURE, found, Rules(points=5, seed=seed))
        x, y = prompt.points.astype(int).T
        assert len(x) == 5 and (found[y, x] >= 0.5).all()
        assert len({*zip(x, y)}) == 5  # without repetition


def test_every_pixel_inside_is_as_likely():
    found = two_blobs()
    drawn = np.zeros_like(found)
    for seed in range(365):
        (prompt,) = clicks(PICTURE, found, Rules(points=5, seed=seed))
        x, y = prompt.points.astype(int).T
        np.add.at(drawn, (y, x), 1)
    counts = drawn[found > 0]  # 73 pixels, 25 each on average: deviation below 5
    assert counts.sum() == 365 * 5 and counts.min() > 5 and counts.max() < 50
    assert not drawn[found == 0].any()


def test_clicks_depend_on_pixels_and_seed_alone():
    found, other = two_blobs(), nano.picture(24, 40, seed=1)
    drawn = {
        (name, seed): clicks(picture, found, Rules(seed=seed))[0].points.tolist()
        for name, picture in (("a", PICTURE), ("b", other))
        for seed in (0, 1)
    }
    assert all(one != two for one, two in itertools.combinations(drawn.values(), 2))
    again = clicks(np.asfortranarray(PICTURE), found, Rules())[0].points.tolist()
    assert again == drawn["a", 0]


def test_parts_that_touch_at_a_corner_are_one_and_the_largest_comes_first():
    together = parts(two_blobs(), Rules())
    assert [int(part.sum()) for part in together] == [73]
    found = list(parts(two_blobs(), Rules(instances=True)))
    assert [int(part.sum()) for part in found] == [61, 12]
    assert found[0][16, 30] and found[1][2, 3]


@pytest.mark.parametrize(("min_region", "sizes"), [(0.05, [61]), (0.9, [61]), (0.0, [61, 12])])
def test_small_parts_are_left_out_but_never_all(min_region, sizes):
    found = parts(two_blobs(), Rules(instances=True, min_region=min_region))
    assert [int(part.sum()) for part in found] == sizes


def test_threshold_decides_what_is_inside():
    assert [int(part.sum()) for part in parts(two_blobs(), Rules(threshold=0.95))] == [60]
    assert [int(part.sum()) for part in parts(two_blobs(), Rules(threshold=0.51))] == [61]


@pytest.mark.parametrize("instances", [False, True])
def test_nothing_salient_is_an_empty_answer(instances):
    sam = nano.sam("sam_nano")
    found = salient(sam, PICTURE, np.zeros((24, 40), np.float32), instances=instances)
    assert found.masks.shape == (0, 24, 40) and found.prompts == () and found.scores == ()
    assert not found.union().any() and found.union().shape == (24, 40)


def test_a_map_a_callable_and_several_instances():
    sam = nano.sam("sam_nano")
    one = esam_jax.salient(sam, PICTURE, two_blobs())
    assert one.masks.shape == (1, 24, 40) and len(one.prompts[0].points) == 3
    same = esam_jax.salient(sam, PICTURE, lambda picture: np.uint8(255 * two_blobs() + 0.5))
    np.testing.assert_array_equal(one.masks, same.masks)
    several = esam_jax.salient(sam, PICTURE, two_blobs(), instances=True)
    assert several.masks.shape == (2, 24, 40) and len(several.scores) == 2
    np.testing.assert_array_equal(several.union(), several.masks.any(0))
    masks = sam.decode(sam.encode(PICTURE), list(several.prompts))
    np.testing.assert_array_equal(several.masks, masks.best()[1])


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1)])
def test_pictures_of_few_pixels_get_clicks_that_repeat(size):
    picture, found = nano.picture(*size), np.zeros(size, np.float32)
    found[-1, -1] = 1
    answer = salient(nano.sam("sam_nano"), picture, found)
    np.testing.assert_array_equal(answer.prompts[0].points, [[size[1] - 1, size[0] - 1]] * 3)
    assert answer.masks.shape == (1, *size)


def test_at_most_so_many_parts_are_queries(monkeypatch):
    monkeypatch.setattr(module, "_MOST_PARTS", 3)
    found = np.zeros((9, 9), np.float32)
    found[::2, ::2] = 1
    assert len(list(parts(found, Rules(instances=True, min_region=0.0)))) == 3


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((40, 24), np.float32), r"saliency is 40 x 24, but the picture 24 x 40 .*resize"),
        (np.zeros((24, 40, 3), np.float32), "saliency is 24 x 40 x 3"),
        (3.0, "saliency is a number"),
        (np.full((24, 40), 1.5), "960 values outside of 0 to 1: scale it"),
        (np.full((24, 40), np.nan), "960 values outside of 0 to 1"),
        (np.zeros((24, 40), np.int64), "saliency holds int64, but must hold floats"),
    ],
)
def test_maps_that_are_none_are_refused_by_name(value, message):
    with pytest.raises(PromptError, match=message):
        checked_map(value, 24, 40)
    with pytest.raises(PromptError, match=message):
        salient(nano.sam("sam_nano"), PICTURE, value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 0}, "points is 0, but must be an integer from 1"),
        ({"points": True}, "points is True, but must be an integer"),
        ({"threshold": 0.0}, r"threshold is 0\.0, but must be above 0"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"min_region": 2.0}, r"min_region is 2\.0, but must be a share"),
        ({"seed": -1}, "seed is -1, but must be an integer from 0"),
    ],
)
def test_rules_that_are_none_are_refused_by_name(options, message):
    with pytest.raises(PromptError, match=message):
        salient(nano.sam("sam_nano"), PICTURE, two_blobs(), **options)


def test_three_points_from_one_half_on_are_the_rule_wherever_it_is_given():
    rules = Rules()
    assert (rules.points, rules.threshold, rules.instances) == (3, 0.5, False)
    given = inspect.signature(salient).parameters
    for field in dataclasses.fields(Rules):
        wanted = getattr(rules, field.name)
        assert given[field.name].default == wanted
        for command in (cli_salient.Salient, cli_evaluate.Arguments):
            defaults = {each.name: each.default for each in dataclasses.fields(command)}
            assert defaults[field.name] == wanted


def test_a_model_with_few_slots_takes_no_more_points():
    with pytest.raises(PromptError, match=r"points takes 7 slots .*, but this checkpoint has 6"):
        salient(nano.sam("efficientsam_nano"), PICTURE, two_blobs(), points=7)


def test_a_picture_that_is_none_is_refused_by_name():
    with pytest.raises(DataError, match="picture has shape"):
        salient(nano.sam("sam_nano"), PICTURE[..., 0], two_blobs())
