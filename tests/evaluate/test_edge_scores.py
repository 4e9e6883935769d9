"""BSDS500's numbers: golden counts and scores, a slow assignment, and invariants."""

import itertools
import json
import pathlib

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from esam_jax.config import BsdsConfig
from esam_jax.errors import DataError, MissingError
from esam_jax.evaluate import boundaries, edge_scores
from esam_jax.evaluate.thinning import thin

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "bsds_a.npz")
META = json.loads(str(GOLDEN["meta"]))
LEVELS, EDGES = GOLDEN["thresholds"], GOLDEN["edges"] / 255
MOST = META["max_dist"]
SIDES = EDGES.shape[1:]
masks = hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def unpacked(name: str, width: int) -> np.ndarray:
    return np.unpackbits(GOLDEN[name], axis=-1, count=width).astype(bool)


def people(picture: int) -> np.ndarray:
    return unpacked(f"truth_packed_{picture}", SIDES[1])


# ------------------------------------------------------------------------------------- thinning


def test_thinning_is_that_of_the_benchmark():
    width = int(GOLDEN["thin_shape"][1])
    assert (thin(unpacked("thin_in_packed", width)) == unpacked("thin_out_packed", width)).all()
    for picture in range(3):
        thinned = unpacked("thinned_packed", SIDES[1])[picture]
        for level, expected in zip(LEVELS, thinned, strict=True):
            assert (thin(EDGES[picture] >= level) == expected).all()


@given(masks)
def test_a_thinned_mask_has_as_many_parts_and_holes_and_stays_as_it_is(mask: np.ndarray):
    found = thin(mask)
    assert not (found & ~mask).any() and (thin(found) == found).all()
    all_around = np.ones((3, 3))
    assert ndimage.label(found, all_around)[1] == ndimage.label(mask, all_around)[1]
    outside = [ndimage.label(np.pad(~each, 1, constant_values=True))[1] for each in (found, mask)]
    assert outside[0] == outside[1]


# ------------------------------------------------------------------------------------- matching


def test_pairs_and_distances_are_those_of_a_dense_assignment():
    most_px = MOST * float(np.hypot(*SIDES))
    for picture in range(3):
        thinned = unpacked("thinned_packed", SIDES[1])[picture]
        for at, first in enumerate(thinned[::3]):
            for person, second in enumerate(people(picture)):
                pairs, distance = GOLDEN["pairs"][picture, 3 * at, person]
                found = boundaries.match(first, second, most_px=most_px)
                assert found.pairs == pairs == found.second.sum()
                assert found.distance == pytest.approx(distance, abs=1e-6)


@given(masks, st.integers(0, 2**32 - 1), st.floats(0.5, 6))
def test_a_matching_is_that_of_every_pixel_with_every_other(
    first: np.ndarray, seed: int, most_px: float
):
    second = np.random.default_rng(seed).random(first.shape) < 0.3
    ones, others = np.argwhere(first), np.argwhere(second)
    far = np.hypot(*(ones[:, None] - others[None]).transpose(2, 0, 1))
    # Whoever stays alone costs more than all pairs together.
    alone = 2 * 100 * most_px
    rows, columns = linear_sum_assignment(np.where(far <= most_px, far, alone))
    paired = far[rows, columns] <= most_px
    found = boundaries.match(first, second, most_px=most_px)
    assert found.pairs == found.second.sum() == paired.sum()
    assert found.distance == pytest.approx(far[rows, columns][paired].sum(), abs=1e-6)
    assert not (found.first & ~first).any() and not (found.second & ~second).any()


def test_a_pair_may_be_exactly_that_far_apart():
    first, second = np.zeros((5, 9), bool), np.zeros((5, 9), bool)
    first[0, 0] = second[3, 4] = True
    assert boundaries.match(first, second, most_px=5.0).pairs == 1
    assert boundaries.match(first, second, most_px=4.99).pairs == 0
    empty = boundaries.match(first, np.zeros_like(first), most_px=5.0)
    assert empty.pairs == empty.distance == 0


# -------------------------------------------------------------------------------------- numbers


def test_counts_are_golden():
    for picture in range(3):
        found = edge_scores.counts(EDGES[picture], people(picture), LEVELS, MOST)
        expected = GOLDEN["counts"][picture]
        assert (found[:, [0, 1, 3]] == expected[:, [0, 1, 3]]).all()
        assert np.abs(found[:, 2] - expected[:, 2]).max() <= 3  # depends on ties


def test_numbers_are_golden():
    found, expected = edge_scores.summary(GOLDEN["counts"], LEVELS), META["summary"]
    ods = [found[name] for name in ("threshold", "recall", "precision", "ODS")]
    assert ods == pytest.approx(expected["ODS"], abs=1e-9)
    ois = [found[name] for name in ("OIS_recall", "OIS_precision", "OIS")]
    assert ois == pytest.approx(expected["OIS"], abs=1e-9)
    assert found["AP"] == pytest.approx(expected["AP"], abs=1e-9)
    assert found["R50"] == pytest.approx(expected["R50"], abs=1e-9)


def plainly(found: np.ndarray, levels: np.ndarray) -> dict[str, float]:
    """One threshold, step and recall after another, as the benchmark's `maxF` and
    `collect_eval_bdry` have them."""

    def shares(row):
        return row[0] / (row[1] or 1), row[2] / (row[3] or 1)

    def f(recall, precision):
        return 2 * recall * precision / ((recall + precision) or 1)

    sums = [shares(row) for row in found.sum(0).tolist()]
    best = (f(*sums[0]), levels[0])
    for k in range(1, len(levels)):
        for step in range(100):
            d = step / 99
            recall, precision, level = (
                d * a + (1 - d) * b
                for a, b in zip((*sums[k], levels[k]), (*sums[k - 1], levels[k - 1]), strict=True)
            )
            if f(recall, precision) > best[0] + 1e-14:
                best = (f(recall, precision), level)
    chosen = [max(rows, key=lambda row: f(*shares(row))) for rows in found.tolist()]
    by_recall = sorted(sums)
    area = 0.0
    for i in range(101):
        for (r0, p0), (r1, p1) in itertools.pairwise(by_recall):
            if r0 <= i / 100 < r1:
                area += 0.01 * (p0 + (p1 - p0) * (i / 100 - r0) / (r1 - r0))
    by_precision = sorted((p, r) for r, p in sums)
    r50 = by_precision[0][1]  # where every precision is higher
    for (p0, r0), (p1, r1) in itertools.pairwise(by_precision):
        if p0 <= 0.5 < p1:
            r50 = r0 + (r1 - r0) * (0.5 - p0) / (p1 - p0)
    ois = f(*shares([sum(x) for x in zip(*chosen, strict=True)]))
    return {"ODS": best[0], "threshold": best[1], "OIS": ois, "AP": area, "R50": r50}


@pytest.mark.parametrize("lowest", [0.1, 0.6])
def test_numbers_are_those_of_a_slow_computation(lowest: float):
    """Where the best threshold lies between two, and R50 within the curve or at its end."""
    rng, levels = np.random.default_rng(7), edge_scores.thresholds(5)
    for _ in range(20):
        truth, pixels = rng.integers(900, 1000, (2, 3, 5))
        recall = np.sort(rng.uniform(0.2, 0.9, 5))[::-1]
        precision = np.sort(rng.uniform(lowest, 0.95, 5))
        found = np.stack([truth * recall, truth, pixels * precision, pixels], -1).astype(int)
        got, wanted = edge_scores.summary(found, levels), plainly(found, levels)
        for name, value in wanted.items():
            assert got[name] == pytest.approx(value, abs=1e-9), name


def test_a_pixel_at_the_threshold_is_an_edge():
    line = np.zeros((9, 30))
    line[4, 3:27] = 51 / 255
    drawn = (line > 0)[None]
    levels = edge_scores.thresholds(4)  # 0.2 is the first
    found = edge_scores.counts(line, drawn, levels)
    assert found.tolist() == [[24, 24, 24, 24]] + [[0, 24, 0, 0]] * 3


def test_thresholds_leave_out_both_ends():
    assert edge_scores.thresholds(99) == pytest.approx(np.arange(1, 100) / 100, abs=1e-12)
    assert edge_scores.thresholds(1).tolist() == [0.5]


def test_nothing_at_all_scores_nothing():
    found = edge_scores.summary(np.zeros((2, 5, 4), np.int64), edge_scores.thresholds(5))
    assert [found[name] for name in ("ODS", "OIS", "AP", "R50")] == [0, 0, 0, 0]


# ----------------------------------------------------------------------------------- the folder


@pytest.fixture
def data(tmp_path: pathlib.Path) -> pathlib.Path:
    """The golden pictures in BSDS500's layout without MATLAB, and their maps."""
    for name in ("images", "gt", "maps"):
        (tmp_path / name).mkdir()
    for picture in range(3):
        drawn = people(picture)
        Image.fromarray(np.zeros((*SIDES, 3), np.uint8)).save(tmp_path / f"images/{picture}.png")
        regions = np.ones(drawn.shape, np.uint16)
        np.savez(tmp_path / f"gt/{picture}.npz", boundaries=drawn, segmentation=regions)
        Image.fromarray(GOLDEN["edges"][picture]).save(tmp_path / f"maps/{picture}.png")
    return tmp_path


def scored(data: pathlib.Path, workers: int = 1) -> dict:
    truth = BsdsConfig(path=str(data))
    return edge_scores.of_maps(data / "maps", truth, levels=10, max_distance=MOST, workers=workers)


def test_a_folder_of_maps_gives_the_golden_numbers(data: pathlib.Path):
    found, expected = scored(data), META["summary"]
    assert found["ODS"] == pytest.approx(expected["ODS"][3], abs=3e-3)
    assert found["AP"] == pytest.approx(expected["AP"], abs=3e-3)
    each = [list(found["pictures"][f"{picture}.png"].values()) for picture in range(3)]
    assert np.array(each) == pytest.approx(np.array(expected["per_image"]), abs=3e-3)


def test_processes_change_no_number(data: pathlib.Path):
    one, two = scored(data), scored(data, workers=2)
    assert {**one, "seconds": 0} == {**two, "seconds": 0}


def test_maps_of_16_bits_and_of_one_are_read_as_shares(tmp_path: pathlib.Path):
    wide = np.array([[0, 2**15, 2**16 - 1]], np.uint16)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert edge_scores.read_map(tmp_path / "wide.png")[0] == pytest.approx(wide[0] / 65535)
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bits.png")
    assert edge_scores.read_map(tmp_path / "bits.png").tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize(
    ("name", "size", "mode", "error", "message"),
    [
        ("gone.png", SIDES[::-1], "L", MissingError, "has no 1.png: write a grey PNG for each"),
        ("1.png", SIDES, "L", DataError, "1.png is 76 x 60, but its picture 60 x 76: write maps"),
        ("1.png", SIDES[::-1], "RGB", DataError, "a PNG of RGB: write edges as a grey PNG"),
        ("1.png", SIDES[::-1], "P", DataError, "a PNG of P: write edges as a grey PNG"),
    ],
)
def test_a_map_that_cannot_be_used_is_named(data, name, size, mode, error, message):
    (data / "maps/1.png").unlink()
    Image.new(mode, size).save(data / "maps" / name)
    with pytest.raises(error, match=message):
        scored(data)
