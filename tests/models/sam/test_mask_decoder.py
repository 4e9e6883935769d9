"""The mask decoder and its two-way transformer, against slower and more obvious forms."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny

from esam_jax.config import ComputeConfig
from esam_jax.models.sam.mask_decoder import MaskDecoder, TransposedConv, Upscale, _shuffle

B, Q, P, GRID, WIDTH = 2, 3, 4, 5, 16


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@functools.cache
def decoder(wiring, dtype="float32"):
    config = tiny.config(wiring)
    model = MaskDecoder(config, ComputeConfig(dtype=dtype))
    params = {"params": tiny.params(config)["decoder"]}
    return tiny.jit(functools.partial(model.apply, params))


INPUTS = (
    normal(B, GRID, GRID, WIDTH, seed=1),
    normal(GRID, GRID, WIDTH, seed=2),
    normal(B, Q, P, WIDTH, seed=3),
)


@pytest.mark.parametrize("wiring", tiny.WIRINGS)
def test_queries_do_not_see_each_other(wiring):
    embedding, position, sparse = INPUTS
    logits, iou = decoder(wiring)(embedding, position, sparse)
    assert logits.shape == (B, Q, 4, 4 * GRID, 4 * GRID) and iou.shape == (B, Q, 4)
    order = np.array([2, 0, 1])
    permuted = decoder(wiring)(embedding, position, sparse[:, order])
    for one, other in zip(permuted, (logits[:, order], iou[:, order]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    changed = decoder(wiring)(embedding, position, sparse.at[:, 1:].multiply(-1))
    np.testing.assert_allclose(changed[0][:, 0], logits[:, 0], rtol=1e-5, atol=1e-5)
    assert np.abs(changed[0][:, 1] - logits[:, 1]).max() > 1e-2


@pytest.mark.parametrize("wiring", tiny.WIRINGS)
def test_a_shared_embedding_is_as_good_as_one_for_each_query(wiring):
    embedding, position, sparse = INPUTS
    shared = normal(B, 1, GRID, GRID, WIDTH, seed=4)
    each = jnp.tile(shared, (1, Q, 1, 1, 1))
    results = [decoder(wiring)(embedding, position, sparse, dense) for dense in (shared, each)]
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)


def test_the_decoder_in_bfloat16_answers_in_float32():
    logits, iou = decoder("efficientsam")(*INPUTS)
    rough, rough_iou = decoder("efficientsam", "bfloat16")(*INPUTS)
    assert rough.dtype == rough_iou.dtype == jnp.float32
    assert np.abs(rough - logits).max() < 0.1 * np.abs(logits).max()
    assert np.abs(rough_iou - iou).max() < 0.1 * np.abs(iou).max()


def test_transposed_convolution_puts_each_product_where_it_belongs():
    h, w, C, K = 2, 3, 5, 4
    x_hwC, kernel, bias = normal(h, w, C), normal(C, 2, 2, K, seed=1), normal(K, seed=2)
    params = {"params": {"kernel": kernel, "bias": bias}}
    got = tiny.jit(TransposedConv(K).apply)(params, x_hwC.reshape(h * w, C))
    image = np.zeros((2 * h, 2 * w, K), np.float32)
    for i, j, a, b in np.ndindex(h, w, 2, 2):
        image[2 * i + a, 2 * j + b] = x_hwC[i, j] @ kernel[:, a, b] + bias
    cells = image.reshape(h, 2, w, 2, K).transpose(0, 2, 1, 3, 4).reshape(h * w, 4, K)
    np.testing.assert_allclose(got, cells, rtol=1e-5, atol=1e-5)


def test_shuffle_puts_sub_pixels_of_sub_pixels_in_image_order():
    h, w = 2, 3
    rows, cols = np.meshgrid(np.arange(4 * h), np.arange(4 * w), indexing="ij")
    image = (rows * 100 + cols).astype(np.float32)
    cells = np.zeros((1, 1, 1, h * w, 4, 4), np.float32)
    for y, x in np.ndindex(4 * h, 4 * w):
        outer, inner = 2 * (y // 2 % 2) + x // 2 % 2, 2 * (y % 2) + x % 2
        cells[0, 0, 0, (y // 4) * w + x // 4, outer, inner] = image[y, x]
    np.testing.assert_array_equal(_shuffle(jnp.asarray(cells), h, w)[0, 0, 0], image)


def test_efficientsam_normalises_the_map_as_a_whole_and_sam_each_cell():
    image = normal(1, 2, 6, WIDTH)
    louder = image.at[0, 0, 0].multiply(30)
    for wiring in tiny.WIRINGS:
        config = tiny.config(wiring)
        params = {"params": tiny.params(config)["decoder"]["upscale"]}
        enlarge = tiny.jit(Upscale(config.decoder).apply)
        before, after = (enlarge(params, x) for x in (image, louder))
        untouched = np.abs(after[0, 0, 1:] - before[0, 0, 1:]).max()
        assert (untouched > 1e-3) == (wiring == "efficientsam")
        np.testing.assert_allclose(after[0, 1], before[0, 1], atol=1e-5)  # another query
