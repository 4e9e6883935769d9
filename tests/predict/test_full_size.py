"""Masks at full size, tile by tile, against the product of matrices; sizes compile nothing."""

from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import nano

from esam_jax.machine import compilation
from esam_jax.ops import regions, selection
from esam_jax.predict import frames, full_size, tiles
from esam_jax.predict.everything.generator import AutomaticMaskGenerator
from esam_jax.predict.predictor import Predictor

# One small tile, exact tiles, more than four, which are large; also fewer rows than logits have.
SIZES = [(9, 11), (64, 128), (65, 90), (300, 40), (20, 530), (256, 257)]


def case(size: tuple[int, int], name: str, count: int = 3) -> tuple[np.ndarray, full_size.Axes]:
    low_res = np.random.default_rng(2).normal(size=(count, 32, 32)).astype(np.float32)
    return 2 * low_res, frames.enlarging(*size, nano.sam(name).config)


def alone(parts: full_size.Parts) -> Iterator[np.ndarray]:
    """Logits of parts without what says which they are."""
    return (logits for _, logits in parts)


def product(low_res: np.ndarray, axes: full_size.Axes) -> np.ndarray:
    rows, columns = (taps.matrix(32) for taps in (axes.rows, axes.columns))
    return np.einsum("ih,xhw,jw->xij", rows, low_res, columns)


@pytest.mark.parametrize("name", nano.NAMES)
@pytest.mark.parametrize("size", SIZES)
def test_tiles_make_up_the_picture(size: tuple[int, int], name: str):
    low_res, axes = case(size, name)
    wanted = product(low_res, axes)
    found = full_size.logits(full_size.parts(low_res, axes), 3, axes)
    assert found.shape == (3, *size) and axes.size == size
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    binary = full_size.inside(full_size.parts(low_res, axes), 3, axes, False)
    np.testing.assert_array_equal(binary, found > 0)


@pytest.mark.parametrize("size", SIZES)
def test_measures_and_run_lengths_are_those_of_the_logits(size: tuple[int, int]):
    low_res, axes = case(size, "sam_nano", 4)
    low_res[3] = -9  # empty
    logits = full_size.logits(full_size.parts(low_res, axes), len(low_res), axes)
    rows = np.array([2, 0, 3])
    stability, boxes = full_size.measured(
        jnp.asarray(low_res), rows, axes, offset=0.5, zero_is_inside=False
    )
    some = jnp.asarray(logits[rows])
    np.testing.assert_array_equal(stability, selection.stability(some, 0.0, 0.5))
    assert np.isnan(stability[2])
    np.testing.assert_array_equal(boxes, selection.boxes(some > 0))
    found = full_size.runs(alone(full_size.parts(low_res, axes, for_runs=True)), axes, False)
    wanted = [regions.to_runs(mask)["counts"] for mask in logits > 0]
    assert [runs.tolist() for runs in found[:4]] == wanted


@pytest.mark.parametrize(
    ("surface", "valley", "offset"),
    [
        (-0.01, -6.0, 0.0),  # cubic weights raise it above 0 beside a valley
        (-0.5, -0.5, 1.0),  # nothing is inside, but everything above the lower threshold
    ],
)
def test_no_tile_is_left_out_that_counts(surface: float, valley: float, offset: float):
    """Though no logit of the decoder is above the threshold."""
    low_res, axes = case((300, 40), "efficientsam_nano", 1)
    low_res[:] = surface
    low_res[:, ::5] = valley  # across: what columns add is seen before rows are
    logits = full_size.logits(full_size.parts(low_res, axes), 1, axes)
    assert (logits > -offset).any() and (logits > 0).any() == (valley != surface)
    stability, boxes = full_size.measured(
        jnp.asarray(low_res), np.array([0]), axes, offset=offset, zero_is_inside=True
    )
    some = jnp.asarray(logits)
    np.testing.assert_array_equal(stability, selection.stability(some, 0.0, offset))
    np.testing.assert_array_equal(boxes, selection.boxes(some >= 0))
    [runs] = full_size.runs(alone(full_size.parts(low_res, axes, for_runs=True)), axes, True)
    assert runs.tolist() == regions.to_runs(logits[0] >= 0)["counts"]


@pytest.mark.parametrize("name", nano.NAMES)
@pytest.mark.parametrize("size", [(300, 640), (300, 700)])  # the last tiles are cut off
def test_tiles_that_no_mask_reaches_are_left_out(size: tuple[int, int], name: str):
    low_res, axes = case(size, name, 1)
    low_res[:] = -2

    def seen(low_res: np.ndarray, least: float) -> int:
        some = jnp.asarray(low_res)
        count = tiles.over_tiles(some, axes.cover, 256, least, jnp.int32(0), lambda n, _: n + 1)
        return int(count)

    assert seen(low_res, 0.0) == seen(low_res, -1.0) == 0
    assert seen(low_res, -3.0) == seen(low_res + 2, 0.0) == 2 * 3
    low_res[0, 2, 2] = 3
    assert seen(low_res, 0.0) == 1
    low_res[0, 3, 3] = np.nan  # which is outside, and hides nothing
    assert seen(low_res, 0.0) >= 1


def test_runs_of_a_crop_lie_where_the_crop_does():
    low_res, axes = case((70, 130), "sam_nano", 2)
    logits = full_size.logits(full_size.parts(low_res, axes), 2, axes)
    whole = np.pad(logits > 0, ((0, 0), (3, 5), (7, 1)))
    parts = alone(full_size.parts(low_res, axes, for_runs=True))
    found = full_size.runs(parts, axes, False, (7, 3), whole.shape[1:])[:2]
    assert [x.tolist() for x in found] == [regions.to_runs(mask)["counts"] for mask in whole]


@pytest.mark.parametrize("zero_is_inside", [True, False])
def test_a_logit_of_zero(zero_is_inside: bool):
    low_res, axes = case((300, 40), "sam_nano", 1)
    low_res[:] = 0
    found = full_size.inside(full_size.parts(low_res, axes), 1, axes, zero_is_inside)
    assert (found == zero_is_inside).all()
    parts = alone(full_size.parts(low_res, axes))
    [runs] = full_size.runs(parts, axes, zero_is_inside)
    assert runs.tolist() == ([0, 12000] if zero_is_inside else [12000])
    _, [box] = full_size.measured(
        jnp.asarray(low_res), np.array([0]), axes, offset=1.0, zero_is_inside=zero_is_inside
    )
    assert box.tolist() == ([0, 0, 39, 299] if zero_is_inside else [0, 0, 0, 0])


def test_numbers_of_masks_are_few():
    _, axes = case((300, 400), "sam_nano")
    _, huge = case((8192, 8192), "sam_nano")
    wanted = {0: [], 1: [1], 2: [8], 9: [8, 1], 32: [8] * 4, 33: [64], 96: [64] + [8] * 4}
    assert {count: full_size.sizes(count, axes) for count in wanted} == wanted
    assert set(full_size.sizes(3072, huge)) == {64}
    assert set(full_size.sizes(3072, huge, for_runs=True)) == {8}  # 8 MB of turns each


def picture_sizes(count: int) -> list[tuple[int, int]]:
    """Different heights and widths, from a line of pixels to more than four large tiles."""
    rng = np.random.default_rng(0)
    sizes = {(1, 1), (1, 700), (700, 1), (64, 64), (600, 20)}
    while len(sizes) < count:
        sizes.add((int(rng.integers(3, 330)), int(rng.integers(3, 330))))
    return [sorted(sizes)[i] for i in rng.permutation(count)]


@pytest.mark.slow
def test_two_hundred_sizes_of_pictures_share_some_dozen_programs():
    """What each size compiled stayed for good: 18 to 26 MB for a photograph."""
    loose: Any = {"pred_iou_thresh": -1e9, "stability_score_thresh": 0.3, "output_mode": "coco_rle"}
    callers = []
    for name in nano.NAMES:
        everything = [
            AutomaticMaskGenerator(nano.sam(name), 2, **{**loose, **options})
            for options in ({}, {"stability_rule": "low_res"}, {"crop_n_layers": 1})
        ]
        callers.append((Predictor(nano.sam(name)), everything))
    programs = [compilation.counts().programs]
    for i, (height, width) in enumerate(picture_sizes(200)):
        predictor, everything = callers[i % 2]
        picture = nano.picture(height, width)
        predictor.set_image(picture)
        predictor.predict([[0, 0]], [1], return_logits=i % 4 < 2)
        everything[i // 2 % 3].generate(picture)
        programs.append(compilation.counts().programs)
    assert programs[-1] - programs[0] <= 150
    assert programs[-1] - programs[100] <= 15, "the second hundred still compiles"
