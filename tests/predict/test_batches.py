"""Prompts become few shapes, each query exactly once, in the frames the decoder reads."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.models import named
from esam_jax.predict import batches
from esam_jax.predict.prompt import Prompt
from esam_jax.typing import BOTTOM_RIGHT, FOREGROUND, NOTHING, PADDING, TOP_LEFT

EFFICIENTSAM, SAM = named.sam("efficientsam_nano"), named.sam("sam_nano")
HEIGHT, WIDTH = 30, 60

PROMPTS = st.lists(
    st.builds(
        Prompt,
        points=st.lists(st.tuples(st.floats(0, 59), st.floats(0, 29)), min_size=1, max_size=4),
        box=st.none() | st.just([1.0, 2.0, 30.0, 20.0]),
        mask=st.none() | st.just(np.ones((4, 4), bool)),
    ),
    min_size=1,
    max_size=70,
)
SIZES = (1, 8, 32, 64, 128, 256)
OTHER = {(1, 1), (1, 8)}
MASK = np.ones((4, 4), bool)


def calls(lists, config, most=32):
    return list(batches.calls(lists, config, [(HEIGHT, WIDTH)] * len(lists), most))


@given(
    st.lists(PROMPTS, min_size=1, max_size=12),
    st.sampled_from([EFFICIENTSAM, SAM]),
    st.sampled_from([1, 8, 32, 100, 256]),
)
def test_every_query_is_asked_once_in_few_shapes(lists, config, most):
    found = calls(lists, config, most)
    plain_shapes = {(8, 1)} | {(1, size) for size in SIZES if size <= max(8, most)}
    largest = max([len(call.asked) for call in found if len(call.pictures) == 1], default=1)
    assert largest <= max(8, batches.largest(lists, config, most))
    asked = sorted(pair for call in found for pair in call.asked)
    assert asked == [(b, i) for b, prompts in enumerate(lists) for i in range(len(prompts))]
    for call in found:
        pictures, count, slots = call.labels.shape
        masked = call.masks is not None
        plain = not masked and slots in (4, EFFICIENTSAM.decoder.point_slots)
        assert (pictures, count) in (plain_shapes if plain else OTHER)
        assert slots in ((4, 16) if config is SAM else (EFFICIENTSAM.decoder.point_slots,))
        assert pictures * count == 1 or pictures * count < 2 * len(call.asked)
        for place, (picture, i) in enumerate(call.asked):
            row, column = divmod(place, count)
            assert call.pictures[row] == picture
            tokens = call.labels[row, column]
            wanted = lists[picture][i]
            assert masked == (wanted.mask is not None)
            if config is SAM:
                assert (tokens != NOTHING).sum() == wanted.tokens
                assert (tokens[wanted.tokens :] == NOTHING).all()


def test_many_prompts_of_one_picture_go_in_one_call_where_there_is_room():
    prompts = [Prompt(points=[[1, 1]])] * 64
    shapes = {most: [call.labels.shape[1] for call in calls([prompts], SAM, most)]
              for most in (8, 32, 64, 256)}  # fmt: skip
    assert shapes == {8: [8] * 8, 32: [32, 32], 64: [64], 256: [64]}
    masked = [Prompt(box=[1, 1, 9, 9], mask=MASK)] * 64
    assert batches.largest([prompts[:3], prompts], SAM, 256) == 64
    assert batches.largest([masked], SAM, 256) == batches.largest([[]], SAM, 256) == 1


def test_sam_tokens_of_a_point_and_of_a_box():
    prompts = [Prompt(points=[[15, 10]]), Prompt(box=[15, 10, 30, 20])]
    point, box = calls([prompts], SAM)
    assert point.labels.tolist() == [[[FOREGROUND, PADDING, NOTHING, NOTHING]]]
    assert box.labels.tolist() == [[[TOP_LEFT, BOTTOM_RIGHT, NOTHING, NOTHING]]]
    scale = 64 / 60  # the longer side fills the input
    np.testing.assert_allclose(point.points[0, 0, 0], [15 * scale, 10 * scale], rtol=1e-6)
    np.testing.assert_allclose(box.points[0, 0, 1], [30 * scale, 20 * scale], rtol=1e-6)


def test_many_points_go_to_the_next_size():
    prompts = [Prompt(points=[[1, 1]] * count) for count in (3, 4, 15, 16, 63, 64)]
    assert [call.labels.shape[2] for call in calls([prompts], SAM)] == [4, 16, 16, 64, 64, 256]


def test_efficientsam_scales_the_axes_apart_and_leaves_empty_slots_at_minus_one():
    (call,) = calls([[Prompt(points=[[15, 10]])]], EFFICIENTSAM)
    expected = [[15 * 64 / 60, 10 * 64 / 30], *[[-1, -1]] * 5]
    np.testing.assert_allclose(call.points[0, 0], expected, rtol=1e-6)
    assert call.labels[0, 0].tolist() == [FOREGROUND, *[PADDING] * 5]


def test_prompts_with_a_mask_go_apart():
    prompts = [Prompt(box=[1, 1, 9, 9]), Prompt(box=[1, 1, 9, 9], mask=MASK)]
    without, masked = calls([prompts], SAM)
    assert without.masks is None
    assert masked.masks.shape == (1, 1, 32, 32) and list(masked.asked) == [(0, 1)]


def test_single_questions_about_several_pictures_go_together():
    (call,) = calls([[Prompt(points=[[b, 1]])] for b in range(6)], SAM)
    assert call.pictures.tolist() == [0, 1, 2, 3, 4, 5, 0, 0]


def test_a_mask_covers_the_picture_and_not_the_padding():
    logits = batches.mask_logits(np.ones((7, 14), bool), SAM, HEIGHT, WIDTH)
    assert (logits[:16] == 10).all() and (logits[16:] == -10).all()
    stretched = batches.mask_logits(np.ones((7, 14), bool), EFFICIENTSAM, HEIGHT, WIDTH)
    assert stretched.shape == (32, 32) and (stretched == 10).all()


def test_a_half_covered_cell_is_undecided():
    mask = np.zeros((64, 64), bool)
    mask[:, :33] = True
    logits = batches.mask_logits(mask, SAM, 64, 64)
    assert (logits[:, :16] == 10).all() and (logits[:, 17:] == -10).all()
    np.testing.assert_allclose(logits[:, 16], 0, atol=1e-5)


def test_logits_pass_untouched():
    logits = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    prompt = Prompt(mask=logits)
    np.testing.assert_array_equal(batches.mask_logits(prompt.mask, SAM, HEIGHT, WIDTH), logits)
