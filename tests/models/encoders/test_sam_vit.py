"""The windowed encoder: its attention against a slow one with the N x N bias written out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from esam_jax.config import ComputeConfig, SamVitConfig
from esam_jax.models.encoders.sam_vit import RelativeAttention, SamVitEncoder

CONFIG = SamVitConfig(
    width=12, heads=3, depth=2, global_blocks=(1,), window=3, patch_px=4, image_px=20, neck_width=5
)
RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def slow_relative_attention(x_hwD, p, heads):
    """Upstream's formula for one window or one whole grid, with the bias written out."""
    h, w, D = x_hwD.shape
    x = x_hwD.reshape(h * w, D)
    rows, cols = np.divmod(np.arange(h * w), w)
    by_row = rows[:, None] - rows[None, :] + h - 1
    by_col = cols[:, None] - cols[None, :] + w - 1
    out = p["out"]["bias"]
    for a in range(heads):
        q, k, v = (
            x @ p[name]["kernel"][:, a] + p[name]["bias"][a] for name in ("query", "key", "value")
        )
        bias = np.einsum("nk,nsk->ns", q, p["rel_rows"][by_row] + p["rel_cols"][by_col])
        weights = special.softmax(q @ k.T / np.sqrt(q.shape[-1]) + bias, axis=-1)
        out = out + weights @ v @ p["out"]["kernel"][a]
    return out.reshape(h, w, D)


def slow_windowed(x_hwD, p, heads, window):
    """Padded with zeros to complete windows, each on its own, padding cut off again."""
    h, w, D = x_hwD.shape
    padded = np.zeros((h + -h % window, w + -w % window, D))
    padded[:h, :w] = x_hwD
    for i in range(0, padded.shape[0], window):
        for j in range(0, padded.shape[1], window):
            part = (slice(i, i + window), slice(j, j + window))
            padded[part] = slow_relative_attention(padded[part], p, heads)
    return padded[:h, :w]


@pytest.mark.parametrize("window", [None, 3, 7])  # 7 is larger than the grid
def test_attention_is_the_slow_one(window):
    x = normal(2, 5, 5, 12)
    attn = RelativeAttention(heads=3, window=window, table_grid=window or 5)
    params = jax.jit(attn.init)(jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.3 * normal(*leaf.shape), params)
    assert params["rel_rows"].shape == (2 * (window or 5) - 1, 4)
    found = jax.jit(attn.apply)({"params": params}, x)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    for image, result in zip(np.asarray(x, np.float64), found):
        expected = (
            slow_windowed(image, wide, 3, window)
            if window
            else slow_relative_attention(image, wide, 3)
        )
        np.testing.assert_allclose(result, expected, atol=2e-5)


@pytest.fixture(scope="module")
def params():
    pixels = jnp.zeros((1, 20, 20, 3))
    initial = jax.jit(SamVitEncoder(CONFIG).init)(jax.random.key(0), pixels)["params"]
    return jax.tree.map(lambda x: x + 0.1 * normal(*x.shape), initial)


def test_tables_are_sized_by_window_and_grid(params):
    assert params["positions"].shape == (5, 5, 12)
    assert params["block_00"]["attn"]["rel_rows"].shape == (5, 4)  # window of 3
    assert params["block_01"]["attn"]["rel_cols"].shape == (9, 4)  # global, grid of 5


@pytest.mark.parametrize("size", [(8, 12), (28, 16)])
def test_any_whole_number_of_patches_will_do(params, size):
    features = jax.jit(SamVitEncoder(CONFIG).apply)({"params": params}, normal(2, *size, 3))
    assert features.shape == (2, size[0] // 4, size[1] // 4, 5) and np.isfinite(features).all()


def test_windows_do_not_see_each_other_and_global_blocks_do(params):
    local = SamVitEncoder(SamVitConfig(**{**vars(CONFIG), "global_blocks": (), "depth": 1}))
    both = SamVitEncoder(CONFIG)
    pixels = normal(1, 20, 20, 3)
    changed = pixels.at[:, 16:, 16:].set(3.0)  # cell (4, 4), in the last window
    for encoder, spreads in ((local, False), (both, True)):
        trunk = jax.jit(functools.partial(encoder.apply, {"params": params}, method="trunk"))
        a, b = (trunk(x)[0, :3, :3] for x in (pixels, changed))
        assert (np.abs(a - b).max() > 1e-6) == spreads


def test_recomputing_blocks_changes_no_parameters(params):
    pixels = jnp.zeros((1, 20, 20, 3))
    encoder = SamVitEncoder(CONFIG, ComputeConfig(remat="blocks"))
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), pixels)["params"]
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)
    # What it does to gradients is tested with the plain encoder: the block is the same class.
    for compute, recomputed in ((encoder.compute, True), (ComputeConfig(), False)):
        apply = functools.partial(SamVitEncoder(CONFIG, compute).apply, {"params": params})
        assert ("policy=None" in str(jax.make_jaxpr(apply)(pixels))) == recomputed
