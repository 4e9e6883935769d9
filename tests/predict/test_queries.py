"""Prompts become few shapes, each query exactly once, in the frames the decoder reads."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.models import variants
from esam_jax.predict import queries
from esam_jax.predict.prompt import Prompt
from esam_jax.typing import BOTTOM_RIGHT, FOREGROUND, PADDING, TOP_LEFT

EFFICIENTSAM, SAM = variants.sam("efficientsam_nano"), variants.sam("sam_nano")
HEIGHT, WIDTH = 30, 60

PROMPTS = st.lists(
    st.builds(
        Prompt,
        points=st.lists(st.tuples(st.floats(0, 59), st.floats(0, 29)), min_size=1, max_size=3),
        box=st.none() | st.just([1.0, 2.0, 30.0, 20.0]),
    ),
    min_size=1,
    max_size=70,
)


@given(PROMPTS, st.sampled_from([EFFICIENTSAM, SAM]))
def test_every_query_is_in_one_group_of_a_bounded_shape(prompts, config):
    groups = list(queries.groups(prompts, config, HEIGHT, WIDTH))
    together = np.concatenate([group.indices for group in groups])
    assert sorted(together.tolist()) == list(range(len(prompts)))
    for group in groups:
        size = len(group.points)
        assert size & (size - 1) == 0 and len(group.indices) <= size <= queries.LARGEST
        assert size < 2 * len(group.indices)
        if config is SAM:
            # No token more than the original gives: padding would change the answer.
            assert {prompts[i].tokens for i in group.indices} == {group.labels.shape[1]}
        else:
            assert group.labels.shape[1] == config.decoder.point_slots


def test_sam_tokens_of_a_point_and_of_a_box():
    prompts = [Prompt(points=[[15, 10]]), Prompt(box=[15, 10, 30, 20])]
    (group,) = queries.groups(prompts, SAM, HEIGHT, WIDTH)
    assert group.labels.tolist() == [[FOREGROUND, PADDING], [TOP_LEFT, BOTTOM_RIGHT]]
    scale = 64 / 60  # the longer side fills the input
    np.testing.assert_allclose(group.points[0, 0], [15 * scale, 10 * scale], rtol=1e-6)
    np.testing.assert_allclose(group.points[1, 1], [30 * scale, 20 * scale], rtol=1e-6)


def test_efficientsam_scales_the_axes_apart_and_leaves_empty_slots_at_minus_one():
    (group,) = queries.groups([Prompt(points=[[15, 10]])], EFFICIENTSAM, HEIGHT, WIDTH)
    expected = [[15 * 64 / 60, 10 * 64 / 30], *[[-1, -1]] * 5]
    np.testing.assert_allclose(group.points[0], expected, rtol=1e-6)
    assert group.labels[0].tolist() == [FOREGROUND, *[PADDING] * 5]


def test_prompts_with_a_mask_go_apart():
    mask = np.ones((4, 4), bool)
    prompts = [Prompt(box=[1, 1, 9, 9]), Prompt(box=[1, 1, 9, 9], mask=mask)]
    without, masked = queries.groups(prompts, SAM, HEIGHT, WIDTH)
    assert without.masks is None and without.batch()[2] is None
    assert masked.masks.shape == (1, 32, 32) and masked.indices.tolist() == [1]


def test_a_mask_covers_the_picture_and_not_the_padding():
    logits = queries.mask_logits(np.ones((7, 14), bool), SAM, HEIGHT, WIDTH)
    assert (logits[:16] == 10).all() and (logits[16:] == -10).all()
    stretched = queries.mask_logits(np.ones((7, 14), bool), EFFICIENTSAM, HEIGHT, WIDTH)
    assert stretched.shape == (32, 32) and (stretched == 10).all()


def test_a_half_covered_cell_is_undecided():
    mask = np.zeros((64, 64), bool)
    mask[:, :33] = True
    logits = queries.mask_logits(mask, SAM, 64, 64)
    assert (logits[:, :16] == 10).all() and (logits[:, 17:] == -10).all()
    np.testing.assert_allclose(logits[:, 16], 0, atol=1e-5)


def test_logits_pass_untouched():
    logits = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    prompt = Prompt(mask=logits)
    np.testing.assert_array_equal(queries.mask_logits(prompt.mask, SAM, HEIGHT, WIDTH), logits)
