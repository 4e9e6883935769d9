"""Points, boxes and masks to tokens, in both wirings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny
from scipy import special

from esam_jax.errors import PromptError
from esam_jax.models.sam.prompt_encoder import MaskStem, PromptEncoder
from esam_jax.typing import BACKGROUND, BOTTOM_RIGHT, FOREGROUND, PADDING, TOP_LEFT

POINTS = np.float32([[[[3.5, 7], [30, 12.25], [-1, -1], [0, 39]]] * 3] * 2)
LABELS = np.tile(np.int32([FOREGROUND, BACKGROUND, PADDING, TOP_LEFT]), (2, 3, 1))


def encode(config, points, labels, mask=None, params=None):
    params = tiny.params(config)["prompt"] if params is None else params
    inputs = (None if x is None else jnp.asarray(x) for x in (points, labels, mask))
    return PromptEncoder(config).apply({"params": params}, *inputs)


def position(config, points):
    """The Fourier code by its formula, in float64."""
    matrix = np.float64(tiny.params(config)["prompt"]["fourier"])
    angle = 2 * np.pi * (2 * (np.float64(points) + 0.5) / config.image_px - 1) @ matrix
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)


@pytest.mark.parametrize("wiring", tiny.WIRINGS)
@pytest.mark.parametrize(
    ("label", "row"), [(1, "foreground"), (2, "top_left"), (3, "bottom_right"), (-1, "padding")]
)
def test_each_label_adds_its_own_row(wiring, label, row):
    config = tiny.config(wiring)
    sparse, _ = encode(config, POINTS, np.full_like(LABELS, label))
    code = 0 if (wiring, row) == ("sam", "padding") else position(config, POINTS)
    expected = code + tiny.params(config)["prompt"][row]
    np.testing.assert_allclose(
        sparse[:, :, :4], np.broadcast_to(expected, (*POINTS.shape[:3], 16)), atol=2e-5
    )


def test_efficientsam_has_no_row_for_background_until_it_learns_one():
    plain, learned = (tiny.config("efficientsam", background=kind) for kind in ("none", "learned"))
    labels = np.full_like(LABELS, BACKGROUND)
    sparse, _ = encode(plain, POINTS, labels)
    np.testing.assert_allclose(sparse[:, :, :4], position(plain, POINTS), atol=2e-5)
    extended, _ = encode(learned, POINTS, labels)
    row = tiny.params(learned)["prompt"]["background"]
    np.testing.assert_array_equal(extended[:, :, :4], sparse[:, :, :4] + row)


def test_efficientsam_fills_its_slots_with_padding_at_minus_one():
    config = tiny.config("efficientsam")
    sparse, dense = encode(config, POINTS, LABELS)
    assert sparse.shape == (2, 3, 6, 16) and dense is None
    full, _ = encode(
        config,
        np.concatenate([POINTS, np.full((2, 3, 2, 2), -1, np.float32)], axis=2),
        np.concatenate([LABELS, np.full((2, 3, 2), PADDING, np.int32)], axis=2),
    )
    np.testing.assert_array_equal(sparse, full)


def test_efficientsam_refuses_more_points_than_slots():
    points, labels = np.zeros((1, 1, 7, 2), np.float32), np.ones((1, 1, 7), np.int32)
    with pytest.raises(PromptError, match="7 points, but this model takes at most 6"):
        encode(tiny.config("efficientsam"), points, labels)


def test_sam_takes_any_number_of_points_and_none():
    config = tiny.config("sam")
    for count in (0, 9):
        points, labels = np.zeros((1, 2, count, 2), np.float32), np.ones((1, 2, count), np.int32)
        assert encode(config, points, labels)[0].shape == (1, 2, count, 16)


def test_without_a_mask_every_cell_is_the_no_mask_vector():
    config = tiny.config("sam")
    _, dense = encode(config, POINTS, LABELS)
    assert dense.shape == (2, 1, 5, 5, 16)  # one for all queries
    np.testing.assert_array_equal(
        dense, np.broadcast_to(tiny.params(config)["prompt"]["no_mask"], dense.shape)
    )


def test_masks_are_refused_where_the_model_has_none_or_of_another_size():
    with pytest.raises(PromptError, match='mask_prompts="learned"'):
        encode(tiny.config("efficientsam"), POINTS, LABELS, np.zeros((2, 3, 20, 20), np.float32))
    with pytest.raises(PromptError, match="is 20x24, but this model reads logits of 20x20"):
        encode(tiny.config("sam"), POINTS, LABELS, np.zeros((2, 3, 20, 24), np.float32))


def test_mask_stem_is_its_convolutions():
    config = tiny.config("sam")
    params = jax.tree.map(np.float64, tiny.params(config)["prompt"]["mask"])
    logits = np.random.default_rng(0).normal(size=(1, 2, 20, 20)).astype(np.float32)
    got = MaskStem(config).apply(
        {"params": tiny.params(config)["prompt"]["mask"]}, jnp.asarray(logits)
    )

    def layer(x_HWC, name):
        kernel = params[name]["kernel"].reshape(2, 2, x_HWC.shape[-1], -1)
        h, w = x_HWC.shape[0] // 2, x_HWC.shape[1] // 2
        out = np.zeros((h, w, kernel.shape[-1])) + params[name]["bias"]
        for i in range(h):
            for j in range(w):
                patch = x_HWC[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
                out[i, j] += np.einsum("yxc,yxco->o", patch, kernel)
        return out

    def norm_gelu(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        x = x * params[name]["scale"] + params[name]["bias"]
        return 0.5 * x * (1 + special.erf(x / np.sqrt(2)))

    for query in range(2):
        x = norm_gelu(layer(logits[0, query, :, :, None], "conv_1"), "norm_1")
        x = norm_gelu(layer(x, "conv_2"), "norm_2")
        x = x @ params["conv_3"]["kernel"] + params["conv_3"]["bias"]
        np.testing.assert_allclose(got[0, query], x, atol=2e-5)


def test_what_efficientsam_adds_starts_at_exactly_zero():
    config = tiny.config("efficientsam", background="learned", mask_prompts="learned")
    logits = jnp.ones((2, 3, 20, 20))
    inputs = jnp.asarray(POINTS), jnp.asarray(LABELS), logits
    params = jax.jit(PromptEncoder(config).init)(jax.random.key(0), *inputs)["params"]
    for mask in (None, logits):
        _, dense = encode(config, POINTS, LABELS, mask, params)
        assert not np.asarray(dense).any()
    assert not np.asarray(params["background"]).any()

    def loss(params):
        return encode(config, POINTS, LABELS, logits, params)[1].sum()

    gradient = jax.jit(jax.grad(loss))(params)
    assert np.asarray(gradient["mask"]["conv_3"]["kernel"]).any()  # so that it can leave zero


def test_the_fourier_matrix_is_never_learned():
    config = tiny.config("sam")
    params = tiny.params(config)["prompt"]
    gradient = jax.grad(lambda p: (encode(config, POINTS, LABELS, None, p)[0] ** 2).sum())(params)
    assert not np.asarray(gradient["fourier"]).any()
    assert np.asarray(gradient["foreground"]).any()


def test_permuting_points_permutes_tokens():
    config, order = tiny.config("sam"), np.array([2, 0, 3, 1])
    labels = np.tile(np.int32([FOREGROUND, BACKGROUND, PADDING, BOTTOM_RIGHT]), (2, 3, 1))
    sparse, _ = encode(config, POINTS, labels)
    permuted, _ = encode(config, POINTS[:, :, order], labels[:, :, order])
    np.testing.assert_array_equal(permuted, sparse[:, :, order])
