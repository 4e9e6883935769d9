"""Edges: the programs beside a slow plain version, invariants, and pictures of a small model."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import esam_jax as esam
from esam_jax.data.sources import scene_painter
from esam_jax.errors import DataError, PromptError
from esam_jax.ops import positions
from esam_jax.ops.positions import Taps
from esam_jax.predict import full_size
from esam_jax.predict.everything.candidates import Candidates, Survivors
from esam_jax.predict.everything.generator import AutomaticMaskGenerator
from esam_jax.predict.full_size import Axes
from esam_jax.predict.zero_shot import edges

SIDE = 16  # of the decoder's logits


def enlarging(height: int, width: int) -> Axes:
    return Axes(*(positions.taps(SIDE, n, "cubic") for n in (height, width)))


def as_they_are(height: int, width: int) -> Axes:
    return Axes(*(Taps(np.arange(n)[:, None], np.ones((n, 1))) for n in (height, width)))


def blobs(count: int, height: int = SIDE, width: int = SIDE, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(count, height, width))
    return (9 * ndimage.gaussian_filter(noise, (0, 2, 2))).astype(np.float32)


def candidates(logits: np.ndarray, rows: np.ndarray | None = None) -> Candidates:
    rows = np.arange(len(logits)) if rows is None else rows
    ones, boxes = np.ones(len(rows), np.float32), np.zeros((len(rows), 4), np.int32)
    return Candidates(jnp.asarray(logits), rows, ones, np.zeros((len(rows), 2)), ones, boxes)


def plainly(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of logits at full size, one mask after the other."""
    best = [np.zeros(logits.shape[1:]) for _ in range(3)]
    for each in logits.astype(np.float64):
        probability = 1 / (1 + np.exp(-each))
        right = ndimage.sobel(probability, axis=1)
        down = ndimage.sobel(probability, axis=0)
        inside = each > 0
        on = ndimage.binary_dilation(inside) & ~inside
        length = np.where(on, np.hypot(right, down), 0)
        longer = length > best[0]
        best = [np.where(longer, a, b) for a, b in zip((length, right, down), best, strict=True)]
    return best[0], best[1], best[2]


@pytest.mark.parametrize(
    ("height", "width", "count"),
    [(1, 1, 3), (1, 9, 3), (64, 62, 70), (63, 126, 5), (70, 300, 5)],
)
def test_outlines_are_those_of_the_plain_version(height: int, width: int, count: int):
    """Of one tile and of several, of more masks than one call takes, in parts."""
    low_res, axes = blobs(count), enlarging(height, width)
    full = full_size.logits(full_size.parts(low_res, axes), count, axes)
    parts = [candidates(low_res[:2]), candidates(low_res, np.arange(2, count))]
    found = edges.outlines(parts, axes)
    expected = plainly(full)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    assert (found[0] > 0).any() == (width > 1)


def test_only_the_rows_that_survived_count():
    low_res, axes = blobs(4), as_they_are(SIDE, SIDE)
    found = edges.outlines([candidates(low_res, np.array([1, 3]))], axes)
    for one, other in zip(found, plainly(low_res[[1, 3]]), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_a_logit_of_zero_is_outside():
    low_res = np.rint(blobs(3) / 2)
    assert (low_res == 0).any(axis=(1, 2)).all()
    found = edges.outlines([candidates(low_res)], as_they_are(SIDE, SIDE))
    for one, other in zip(found, plainly(low_res), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_every_size_of_picture_shares_few_programs():
    program = edges._strongest
    edges.outlines([candidates(blobs(3))], enlarging(40, 50))
    before = program._cache_size()
    for height, width in ((41, 50), (124, 124), (62, 30), (3, 1)):
        edges.outlines([candidates(blobs(3))], enlarging(height, width))
    assert program._cache_size() == before


def test_a_flipped_picture_has_flipped_edges():
    low_res = blobs(6, 20, 31)
    for axis in (1, 2):
        whole, flipped = (
            edges.outlines([candidates(each)], as_they_are(20, 31))
            for each in (low_res, np.ascontiguousarray(np.flip(low_res, axis)))
        )
        np.testing.assert_allclose(np.flip(whole[0], axis - 1), flipped[0], atol=1e-6)
        np.testing.assert_array_equal(
            np.flip(edges.highest(*whole), axis - 1), edges.highest(*flipped)
        )


@pytest.mark.parametrize("value", [-3.0, 0.0, 3.0, np.nan, np.inf, -np.inf])
def test_a_constant_mask_has_no_edges(value: float):
    logits = np.full((2, SIDE, SIDE), value, np.float32)
    for found in edges.outlines([candidates(logits)], as_they_are(SIDE, SIDE)):
        np.testing.assert_array_equal(found, 0)


def test_a_broken_mask_leaves_the_others_as_they_are():
    good = blobs(2)
    broken = np.full((1, SIDE, SIDE), np.nan, np.float32)
    broken[:, 4:9, 4:9] = 5
    axes = as_they_are(SIDE, SIDE)
    found = edges.outlines([candidates(np.concatenate([good, broken]))], axes)
    np.testing.assert_array_equal(found, edges.outlines([candidates(good)], axes))


def test_thinning_keeps_the_ridge_in_every_direction():
    rows, columns = np.mgrid[:41, :41] - 20.0
    for angle in np.linspace(0, np.pi, 9):
        right, down = np.cos(angle), np.sin(angle)
        offset = columns * right + rows * down
        ridge = np.where(abs(offset) < 3, np.exp(-(offset**2) / 3), 0)
        kept = edges.highest(ridge, np.full_like(ridge, right), np.full_like(ridge, down))
        assert kept[20, 20] and not kept[abs(offset) > 0.8].any()
        inner = abs(columns * down - rows * right) < 15  # no gap along the line
        assert ndimage.label(kept & inner, np.ones((3, 3)))[1] == 1


def test_neighbours_are_those_on_the_ring_that_the_gradient_passes():
    """In any direction, with what lies between two pixels on the straight line between them."""
    rng = np.random.default_rng(3)
    strength, right, down = rng.random((30, 41)), *rng.normal(size=(2, 30, 41))
    longer = np.maximum(abs(right), abs(down))
    places, step = np.mgrid[:30, :41], np.stack([down, right]) / longer
    neighbours = [
        ndimage.map_coordinates(np.pad(strength, 2), places + 2 + way * step, order=1)
        for way in (1, -1)
    ]
    expected = strength >= np.maximum(*neighbours)
    np.testing.assert_array_equal(edges.highest(strength, right, down), expected)
    assert 0.2 < expected.mean() < 0.6


def test_equal_neighbours_both_stay():
    strength = np.zeros((3, 6))
    strength[:, 2:4] = 1
    right = np.where(np.arange(6) < 3, 1.0, -1.0) * np.ones((3, 1))
    kept = edges.highest(strength, right, np.zeros((3, 6)))
    np.testing.assert_array_equal(kept, strength > 0)


# ------------------------------------------------------------------------------------- pictures


@pytest.fixture(scope="module")
def sam():
    return esam.load("quickstart_teacher")


def test_a_scene_has_edges_where_its_objects_end(sam, monkeypatch: pytest.MonkeyPatch):
    seen, survivors = [], AutomaticMaskGenerator.survivors

    def watched(self, image):
        yield from survivors(self, image)
        seen.append(self.tally)

    monkeypatch.setattr(AutomaticMaskGenerator, "survivors", watched)
    scene, labels = scene_painter.draw(3, 256, split="heldout")
    found = esam.edges(sam, scene)
    [tally] = seen
    # All three candidates of 16 x 16 clicks; nothing falls but duplicates.
    assert tally.candidates == 768 and set(+tally.dropped) == {"box_nms_thresh"}
    assert found.shape == scene.shape[:2] and found.dtype == np.float32
    assert found.max() == 1 and found.min() == 0
    lowest, most = (
        rank(labels, size=5) for rank in (ndimage.minimum_filter, ndimage.maximum_filter)
    )
    near = lowest != most
    assert found[near].mean() > 3 * found[~near].mean()
    thick = edges.edges(sam, scene, thin=False)
    assert ((found == 0) | (found == thick)).all() and (thick > 0).sum() > (found > 0).sum()


def test_a_picture_of_one_pixel_and_one_without_masks(sam, monkeypatch: pytest.MonkeyPatch):
    one = np.full((1, 1, 3), 7, np.uint8)
    np.testing.assert_array_equal(edges.edges(sam, one, points_per_side=2), np.zeros((1, 1)))

    def nothing(self, image):
        yield Survivors([], np.array([0, 0, 5, 4]), as_they_are(4, 5), (4, 5))

    monkeypatch.setattr(AutomaticMaskGenerator, "survivors", nothing)
    empty = edges.edges(sam, np.zeros((4, 5, 3), np.uint8))
    np.testing.assert_array_equal(empty, np.zeros((4, 5)))
    assert empty.dtype == np.float32


def test_arguments_are_refused_by_name(sam):
    picture = np.zeros((8, 9, 3), np.uint8)
    with pytest.raises(PromptError, match=r"box_nms_thresh is 2.0"):
        edges.edges(sam, picture, box_nms_thresh=2.0)
    with pytest.raises(PromptError, match=r"points_per_side is 0"):
        edges.edges(sam, picture, points_per_side=0)
    with pytest.raises(DataError, match="image has shape"):
        edges.edges(sam, picture[..., 0])


def test_logits_in_bfloat16_give_the_same_kind_of_map():
    logits = blobs(2).astype(jnp.bfloat16)
    found = edges.outlines([candidates(logits)], as_they_are(SIDE, SIDE))
    assert all(each.dtype == np.float32 for each in found)
