"""The plain encoder: a slow version, sizes, positions, and the trunk on some of the patches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from esam_jax.config import ComputeConfig, VitConfig
from esam_jax.errors import ConfigError
from esam_jax.models.encoders.vit import VitEncoder
from esam_jax.ops import positions

CONFIG = VitConfig(
    width=12, heads=3, depth=2, patch_px=4, image_px=32, pretrain_px=16, neck_width=5
)
RNG = np.random.default_rng(0)
ENCODER = VitEncoder(CONFIG)
encode = jax.jit(lambda params, pixels: ENCODER.apply({"params": params}, pixels))
trunk = jax.jit(lambda params, *inputs: ENCODER.apply({"params": params}, *inputs, method="trunk"))


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


@pytest.fixture(scope="module")
def params():
    initial = jax.jit(ENCODER.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    # Noise everywhere, so that no bias or scale is idle.
    return jax.tree.map(lambda x: x + 0.1 * normal(*x.shape), initial["params"])


def norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def slow_block(x, p):
    """One pre-norm block on [N, D], head by head."""
    y, out = norm(x, p["attn_norm"]), p["attn"]["out"]["bias"]
    for a in range(CONFIG.heads):
        q, k, v = (
            y @ p["attn"][name]["kernel"][:, a] + p["attn"][name]["bias"][a]
            for name in ("query", "key", "value")
        )
        weights = special.softmax(q @ k.T / np.sqrt(q.shape[-1]), axis=-1)
        out = out + weights @ v @ p["attn"]["out"]["kernel"][a]
    x = x + out
    hidden = norm(x, p["mlp_norm"]) @ p["mlp"]["hidden"]["kernel"] + p["mlp"]["hidden"]["bias"]
    hidden = hidden * 0.5 * (1 + special.erf(hidden / np.sqrt(2)))
    return x + hidden @ p["mlp"]["out"]["kernel"] + p["mlp"]["out"]["bias"]


def slow_trunk(pixels_HWC, params, positions_ND):
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    size = CONFIG.patch_px
    rows, cols = (side // size for side in pixels_HWC.shape[:2])
    cells = [(i, j) for i in range(rows) for j in range(cols)]
    flat = [
        np.ravel(pixels_HWC[i * size : (i + 1) * size, j * size : (j + 1) * size]) for i, j in cells
    ]
    x = np.stack(flat) @ p["patch_embed"]["kernel"] + p["patch_embed"]["bias"]
    x = x + np.asarray(positions_ND, np.float64)
    for i in range(CONFIG.depth):
        x = slow_block(x, p[f"block_{i:02d}"])
    return x


def test_trunk_is_the_slow_one_at_the_pretraining_size(params):
    pixels = normal(2, 16, 16, 3)
    found = trunk(params, pixels)
    for image, tokens in zip(pixels, found):
        expected = slow_trunk(image, params, params["positions"][1:])
        np.testing.assert_allclose(tokens, expected, atol=2e-5)


def test_other_sizes_resample_the_table(params):
    pixels = normal(1, 20, 24, 3)
    found = trunk(params, pixels)
    table = params["positions"][1:].reshape(4, 4, 12)
    expected = slow_trunk(pixels[0], params, positions.bicubic_resize(table, 5, 6).reshape(30, 12))
    np.testing.assert_allclose(found[0], expected, atol=2e-5)
    assert encode(params, pixels).shape == (1, 5, 6, 5)


def test_all_patches_visible_is_the_whole_in_another_order(params):
    pixels = normal(2, 16, 16, 3)
    order = jnp.asarray([RNG.permutation(16) for _ in range(2)])
    whole, found = trunk(params, pixels), trunk(params, pixels, order)
    expected = jnp.take_along_axis(whole, order[..., None], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_hidden_patches_have_no_influence(params):
    pixels = normal(1, 16, 16, 3)
    visible = jnp.asarray([[0, 5, 9]])
    changed = pixels.at[:, 12:, 12:].set(7.0)  # patch 15
    np.testing.assert_array_equal(trunk(params, changed, visible), trunk(params, pixels, visible))


def test_class_token_comes_first_with_the_position_of_slot_0(params):
    pixels, visible, token = normal(1, 16, 16, 3), jnp.asarray([[3, 1, 7]]), normal(12)
    found = trunk(params, pixels, visible, token)
    assert found.shape == (1, 4, 12)
    # Token and slot enter only as their sum.
    moved = {**params, "positions": params["positions"].at[0].add(1.0)}
    again = trunk(moved, pixels, visible, token - 1.0)
    np.testing.assert_allclose(again, found, atol=1e-5)
    without = trunk(params, pixels, visible)
    assert np.abs(found[:, 1:] - without).max() > 1e-3


def test_recomputing_blocks_changes_neither_parameters_nor_gradients(params):
    pixels = normal(2, 16, 16, 3)
    encoder = VitEncoder(CONFIG, ComputeConfig(remat="blocks"))
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), pixels)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)

    def gradient(network):
        return jax.jit(jax.grad(lambda p: (network.apply({"params": p}, pixels) ** 3).sum()))

    plain, other = gradient(ENCODER)(params), gradient(encoder)(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), plain, other)


def test_positions_start_as_sines_with_an_empty_class_slot():
    variables = jax.jit(ENCODER.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    table = variables["params"]["positions"]
    assert table.shape == (17, 12) and (table[0] == 0).all()
    np.testing.assert_array_equal(table[1:], positions.sincos(4, 4, 12))


def test_cut_patches_are_refused(params):
    with pytest.raises(ConfigError, match="18 x 16"):
        encode(params, jnp.zeros((1, 18, 16, 3)))
