import numpy as np
import pytest

from esam_jax.data import prompts
from esam_jax.data.bitmaps import Bitmap
from esam_jax.errors import DataError
from esam_jax.typing import PADDING, PADDING_XY, TOP_LEFT

MASK = np.zeros((9, 14), bool)
MASK[2:7, 3:12] = True
FIRST = {"box_share": 0.5, "box_noise": 0.1, "box_noise_max_px": 20.0}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_first_prompts_are_points_and_boxes_in_equal_parts():
    labels = [
        prompts.first_prompt(rng(seed), Bitmap.of(MASK), **FIRST)[1].tolist() for seed in range(400)
    ]
    assert all(label in ([1, -1], [2, 3]) for label in labels)
    assert 160 < labels.count([2, 3]) < 240


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.2, 50, 110), (1.0, 400, 400)])
def test_boxes_are_as_many_as_their_share(share, least, most):
    given = {**FIRST, "box_share": share}
    drawn = [prompts.first_prompt(rng(seed), Bitmap.of(MASK), **given)[1] for seed in range(400)]
    assert least <= sum(labels[0] == TOP_LEFT for labels in drawn) <= most


def test_first_prompts_fill_two_slots():
    for seed in range(20):
        points, labels = prompts.first_prompt(rng(seed), Bitmap.of(MASK), **FIRST)
        if labels[0] == 1:
            x, y = points[0].astype(int)
            assert MASK[y, x] and (points[1] == -1).all()  # as the released model pads
        else:
            assert (points[0] <= points[1]).all()


def test_points_are_uniform_over_the_mask():
    mask = np.zeros((4, 6), bool)
    mask[1, 2] = mask[1, 3] = mask[3, 5] = True
    generator = rng()
    drawn = [
        tuple(prompts.uniform_point(generator, Bitmap.of(mask)).astype(int)) for _ in range(900)
    ]
    counts = {point: drawn.count(point) for point in set(drawn)}
    assert set(counts) == {(2, 1), (3, 1), (5, 3)}
    assert all(abs(count - 300) < 60 for count in counts.values())


def test_tight_box_names_the_outermost_pixels():
    assert prompts.tight_box(Bitmap.of(MASK)).tolist() == [3, 2, 11, 6]


def test_box_noise_has_the_papers_spread():
    """Standard deviation: a tenth of 90 and 40 pixels, until the bound cuts it."""
    mask = np.zeros((400, 500), bool)
    mask[150:190, 200:290] = True
    generator = rng()
    free = np.stack(
        [prompts.noisy_box(generator, Bitmap.of(mask), share=0.1, max_px=1e9) for _ in range(3000)]
    )
    assert np.allclose(free.std(0), [9, 4, 9, 4], rtol=0.06)
    assert np.allclose(free.mean(0), prompts.tight_box(Bitmap.of(mask)), atol=0.6)
    bounded = np.stack(
        [prompts.noisy_box(generator, Bitmap.of(mask), share=0.5, max_px=6.0) for _ in range(300)]
    )
    assert np.abs(bounded - prompts.tight_box(Bitmap.of(mask))).max() == 6.0


def test_uniform_box_noise_fills_the_bounds_evenly():
    """A tenth of 90 and 40 pixels, or less where the bound is less, as SAM 2's code draws it."""
    mask = np.zeros((400, 500), bool)
    mask[150:190, 200:290] = True
    generator, tight = rng(), prompts.tight_box(Bitmap.of(mask))
    for max_px, bounds in ((20.0, [9, 4, 9, 4]), (6.0, [6, 4, 6, 4])):
        moved = [
            prompts.noisy_box(generator, Bitmap.of(mask), share=0.1, max_px=max_px, noise="uniform")
            for _ in range(3000)
        ]
        noise = (np.stack(moved) - tight) / bounds
        assert np.abs(noise).max() <= 1 + 1e-4
        assert np.allclose(noise.std(0), 1 / np.sqrt(3), rtol=0.05)
        assert np.allclose(np.quantile(noise, [0.25, 0.75], axis=0), [[-0.5], [0.5]], atol=0.06)


def test_no_noise_is_the_tight_box():
    box = prompts.noisy_box(rng(), Bitmap.of(MASK), share=0.0, max_px=20.0)
    assert (box == prompts.tight_box(Bitmap.of(MASK))).all()


def test_centre_is_farthest_from_every_edge():
    assert prompts.centre_point(Bitmap.of(MASK)).tolist() == [5, 4]  # first of the middle row's 5
    assert prompts.centre_point(Bitmap.of(np.ones((5, 7), bool))).tolist() == [
        2,
        2,
    ]  # the frame is an edge
    hole = np.ones((7, 7), bool)
    hole[3, 3] = False
    y, x = prompts.centre_point(Bitmap.of(hole)).astype(int)[::-1]
    assert hole[y, x]


def test_an_empty_mask_has_no_prompt():
    empty = np.zeros((3, 4), bool)
    for draw in (
        lambda: prompts.uniform_point(rng(), Bitmap.of(empty)),
        lambda: prompts.tight_box(Bitmap.of(empty)),
        lambda: prompts.noisy_box(rng(), Bitmap.of(empty), share=0.1, max_px=20.0),
        lambda: prompts.centre_point(Bitmap.of(empty)),
    ):
        with pytest.raises(DataError, match="empty"):
            draw()


@pytest.mark.parametrize("area", ["one pixel", "full"])
def test_f23_extreme_masks_have_prompts_inside_the_frame(area):
    mask = np.full((5, 7), area == "full")
    mask[4, 6] = True  # the last pixel of all
    for seed in range(50):
        points, labels = prompts.first_prompt(rng(seed), Bitmap.of(mask), **FIRST)
        used = points[labels != PADDING]
        assert (used >= 0).all() and (used <= [6, 4]).all()
        assert (points[labels == PADDING] == PADDING_XY).all()
