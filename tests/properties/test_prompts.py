"""Whatever the mask: points inside it, boxes inside the frame, distances as by brute force."""

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from esam_jax.data import prompts
from esam_jax.data.bitmaps import Bitmap

masks = hnp.arrays(bool, st.tuples(st.integers(1, 13), st.integers(1, 17))).filter(np.any)
seeds = st.integers(0, 2**32 - 1)


@given(masks, seeds)
def test_points_lie_inside(mask: np.ndarray, seed: int):
    x, y = prompts.uniform_point(np.random.default_rng(seed), Bitmap.of(mask)).astype(int)
    assert mask[y, x]
    x, y = prompts.centre_point(Bitmap.of(mask)).astype(int)
    assert mask[y, x]


@given(masks, seeds, st.floats(0, 5), st.floats(0, 50))
def test_boxes_stay_in_the_frame_and_in_order(
    mask: np.ndarray, seed: int, share: float, max_px: float
):
    rng = np.random.default_rng(seed)
    x0, y0, x1, y1 = prompts.noisy_box(rng, Bitmap.of(mask), share=share, max_px=max_px)
    height, width = mask.shape
    assert 0 <= x0 <= x1 <= width - 1 and 0 <= y0 <= y1 <= height - 1


@given(masks)
def test_tight_box_holds_the_mask_and_no_smaller_one_does(mask: np.ndarray):
    x0, y0, x1, y1 = prompts.tight_box(Bitmap.of(mask)).astype(int)
    inside = mask[y0 : y1 + 1, x0 : x1 + 1]
    assert inside.sum() == mask.sum()
    assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()


@given(masks)
def test_distance_is_that_of_brute_force(mask: np.ndarray):
    outside = np.argwhere(~np.pad(mask, 1)) - 1
    pixels = np.argwhere(np.ones_like(mask))
    nearest = ((pixels[:, None] - outside[None]) ** 2).sum(-1).min(1)
    assert (prompts.squared_distance(mask).ravel() == nearest).all()


@given(masks, seeds)
def test_the_same_generator_gives_the_same_prompt(mask: np.ndarray, seed: int):
    assume(mask.size > 1)
    values = {"box_share": 0.5, "box_noise": 0.1, "box_noise_max_px": 20.0}
    first, second = (
        prompts.first_prompt(np.random.default_rng(seed), Bitmap.of(mask), **values)
        for _ in range(2)
    )
    assert (first[0] == second[0]).all() and (first[1] == second[1]).all()
