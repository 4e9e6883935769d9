"""TinyViT's parts against slow forms of their own; the whole is held against the original's numbers
in parity/test_sam.py."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from helpers import tiny
from scipy import special

from esam_jax import sharding
from esam_jax.config import ComputeConfig, TinyVitConfig
from esam_jax.errors import ConfigError
from esam_jax.models.encoders.tiny_vit import Depthwise, TinyVitEncoder, WindowAttention
from esam_jax.models.parts import batch_norm
from esam_jax.models.parts.batch_norm import BatchNorm

# Stages of 10, 5 and 5 cells a side; windows that pad 5 to 6, and 5 to 8.
CONFIG = TinyVitConfig(
    widths=(4, 6, 10),
    depths=(1, 1, 1),
    all_heads=(1, 2, 5),
    windows=(9, 3, 4),
    image_px=40,
    neck_width=7,
)
RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def slow_window(x_ssD, p, heads):
    """Upstream's formula for one window, cell by cell."""
    side, _, D = x_ssD.shape
    x = x_ssD.reshape(side**2, D)
    centred = x - x.mean(-1, keepdims=True)
    x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    x = x * p["norm"]["scale"] + p["norm"]["bias"]
    out = p["out"]["bias"]
    for a in range(heads):
        q, k, v = (
            x @ p[name]["kernel"][:, a] + p[name]["bias"][a] for name in ("query", "key", "value")
        )
        scores = q @ k.T / np.sqrt(D // heads)
        for i in range(side**2):
            for j in range(side**2):
                rows, cols = abs(i // side - j // side), abs(i % side - j % side)
                scores[i, j] += p["biases"][a, rows * side + cols]
        out = out + special.softmax(scores, axis=-1) @ v @ p["out"]["kernel"][a]
    return out.reshape(side, side, D)


def slow_attention(x_hwD, p, heads, window):
    """Padded with zeros before the norm, each window on its own, padding cut off again."""
    h, w, D = x_hwD.shape
    padded = np.zeros((h + -h % window, w + -w % window, D))
    padded[:h, :w] = x_hwD
    for i in range(0, padded.shape[0], window):
        for j in range(0, padded.shape[1], window):
            part = (slice(i, i + window), slice(j, j + window))
            padded[part] = slow_window(padded[part], p, heads)
    return padded[:h, :w]


@pytest.mark.parametrize("window", [2, 3, 7])  # 7 is larger than the map
def test_attention_is_the_slow_one(window):
    x = normal(2, 4, 6, 12)
    attn = WindowAttention(heads=3, window=window)
    params = tiny.jit(attn.init)(jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.5 * normal(*leaf.shape), params)
    assert params["biases"].shape == (3, window**2)
    found = tiny.jit(attn.apply)({"params": params}, x)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    for image, result in zip(np.asarray(x, np.float64), found, strict=True):
        np.testing.assert_allclose(result, slow_attention(image, wide, 3, window), atol=2e-5)


def test_padded_cells_are_the_bias_of_the_norm_and_take_part():
    x = jnp.broadcast_to(jnp.array([1.0, -1.0]), (1, 2, 2, 2))
    attn = WindowAttention(heads=1, window=3)
    params = jax.eval_shape(attn.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), params)
    # All scores are zero, so each cell gets the mean of nine values: four of them 1 + 4, from the
    # first channel after the norm, and five of them 4.
    params["norm"] = {"scale": jnp.ones(2), "bias": jnp.full(2, 4.0)}
    params["value"]["kernel"] = jnp.array([1.0, 0.0, 0.0, 0.0]).reshape(2, 1, 2)
    params["out"]["kernel"] = jnp.array([1.0, 0.0, 0.0, 0.0]).reshape(1, 2, 2)
    found = tiny.jit(attn.apply)({"params": params}, x)
    np.testing.assert_allclose(found[..., 0], (4 * 5 + 5 * 4) / 9, rtol=1e-5)


def test_batch_norm_uses_what_is_stored():
    x, (scale, bias, mean) = 3 * normal(2, 4, 5, 6) + 1, (normal(6) for _ in range(3))
    variance = jnp.square(normal(6)) * 1e-4  # of the size of epsilon for some
    params = {"scale": scale, "bias": bias, "mean": mean, "variance": variance}
    found, moments = tiny.jit(BatchNorm().apply)({"params": params}, x)
    assert moments == {}
    wide = {k: np.asarray(v, np.float64) for k, v in params.items()}
    expected = (np.asarray(x, np.float64) - wide["mean"]) / np.sqrt(wide["variance"] + 1e-5)
    expected = expected * wide["scale"] + wide["bias"]
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-3)


@pytest.mark.parametrize("width", [16, 256])
def test_depthwise_kernels_start_so_that_a_signal_keeps_its_size(width):
    """No norm would restore it."""
    start = tiny.jit(Depthwise().init_with_output)
    found, _ = start(jax.random.key(0), normal(1, 32, 32, width))
    assert 0.8 < np.std(found) < 1.1  # somewhat below 1, for the edges


@functools.cache
def shapes():
    pixels = jax.ShapeDtypeStruct((1, 40, 40, 3), jnp.float32)
    return jax.eval_shape(TinyVitEncoder(CONFIG).init, jax.random.key(0), pixels)["params"]


@pytest.fixture(scope="module")
def params():
    def draw(path, leaf):
        around_one = sharding.name(path).endswith(("scale", "variance"))
        return around_one + (0.1 if leaf.ndim == 1 else 0.3) * np.abs(normal(*leaf.shape))

    return jax.tree_util.tree_map_with_path(draw, shapes())


@functools.cache
def forward(dtype):
    return tiny.jit(TinyVitEncoder(CONFIG, ComputeConfig(dtype=dtype)).apply)


def test_any_whole_number_of_patches_will_do(params):
    features = forward("float32")({"params": params}, normal(2, 16, 56, 3))
    assert features.shape == (2, 2, 7, 7) and np.isfinite(features).all()


def test_only_the_last_step_keeps_the_grid():
    apply = functools.partial(
        TinyVitEncoder(CONFIG).apply, capture_intermediates=True, mutable="intermediates"
    )
    pixels = jax.ShapeDtypeStruct((1, 40, 40, 3), jnp.float32)
    _, state = jax.eval_shape(apply, {"params": shapes()}, pixels)
    seen = state["intermediates"]
    expected = {
        "stem_1": (20, 20, 2),
        "stem_2": (10, 10, 4),
        "stage_0": (5, 5, 6),
        "stage_1": (5, 5, 10),
        "stage_2": (5, 5, 10),
        "neck": (5, 5, 7),
    }
    first = {name: jax.tree.leaves(seen[name]["__call__"])[0] for name in expected}
    assert {name: leaf.shape[1:] for name, leaf in first.items()} == expected


@pytest.mark.parametrize("size", [(40, 44), (4, 40)])
def test_parts_of_patches_are_refused(size):
    with pytest.raises(ConfigError, match=f"image is {size[0]} x {size[1]} .* a multiple of 8"):
        TinyVitEncoder(CONFIG).apply({"params": {}}, jnp.zeros((1, *size, 3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"windows": (7, 14)}, "windows is .* one value for each of widths"),
        ({"windows": (7, 0, 4)}, r"windows is \(7, 0, 4\), but each must be from 1 to 16384"),
        ({"depths": (1, 1, -1)}, "depths is .* each must be from 1 to"),
        ({"all_heads": (1, 4, 5)}, "widths is .* each must divide into its heads"),
        ({"image_px": 44}, "image_px is 44, but must be a multiple of 8"),
    ],
)
def test_unknown_sizes_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_gradients_reach_all_but_the_statistics(params):
    pixels, wanted = normal(2, 40, 40, 3), normal(2, 5, 5, 7)

    def loss(params):
        return jnp.square(TinyVitEncoder(CONFIG).apply({"params": params}, pixels) - wanted).sum()

    for path, gradient in jax.tree_util.tree_leaves_with_path(tiny.jit(jax.grad(loss))(params)):
        name = sharding.name(path)
        if name.endswith(("/mean", "/variance")):
            assert not np.any(gradient), name
        elif not name.endswith("key/bias"):  # adds the same to all scores of a query: no effect
            assert np.abs(gradient).max() > 1e-6, name
            assert np.isfinite(gradient).all(), name


def test_bfloat16_stays_near(params):
    pixels = normal(2, 16, 56, 3)
    exact, short = (forward(dtype)({"params": params}, pixels) for dtype in ("float32", "bfloat16"))
    assert short.dtype == jnp.bfloat16
    error = np.asarray(short, np.float32) - np.asarray(exact)
    assert 0 < np.sqrt(np.mean(error**2)) < 0.05 * np.std(exact)


def test_recomputing_blocks_changes_no_parameters():
    pixels = jax.ShapeDtypeStruct((1, 40, 40, 3), jnp.float32)
    encoder = TinyVitEncoder(CONFIG, ComputeConfig(remat="blocks"))
    found = jax.eval_shape(encoder.init, jax.random.key(0), pixels)["params"]
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, shapes())
    for compute, recomputed in ((encoder.compute, CONFIG.depth), (ComputeConfig(), 0)):
        traced = jax.make_jaxpr(TinyVitEncoder(CONFIG, compute).apply)({"params": found}, pixels)
        assert str(traced).count("prevent_cse=True") == recomputed


def test_drop_path_scales_each_branch_of_each_block_of_each_image():
    """As in a network whose branch ends in a layer so much larger; a bottleneck ends in a norm."""
    config = dataclasses.replace(CONFIG, depths=(2, 1, 1))
    encoder, pixels = TinyVitEncoder(config), normal(2, 40, 40, 3)
    ends = [
        (0, "stage_0/block_00/project_norm"),
        (1, "stage_0/block_01/project_norm"),
        (2, "stage_1/block_00/attn/out"),
        (2, "stage_1/block_00/mlp/out"),
        (3, "stage_2/block_00/attn/out"),
        (3, "stage_2/block_00/mlp/out"),
    ]
    shapes = flatten_dict(
        jax.eval_shape(encoder.init, jax.random.key(0), pixels)["params"], sep="/"
    )

    def draw(path, shape):
        """Of such sizes that no branch fades on its way."""
        if path.endswith(("scale", "variance")):
            return RNG.uniform(0.5, 1.5, shape)
        if not path.endswith("kernel"):
            return RNG.normal(scale=0.3, size=shape)
        alone = path.endswith(("spatial/kernel", "local/kernel"))
        return RNG.normal(size=shape) / np.sqrt(9 if alone else np.prod(shape[:-1]))

    flat = {path: draw(path, leaf.shape).astype(np.float32) for path, leaf in shapes.items()}

    @tiny.jit
    def features(flat, scales):
        return encoder.apply({"params": unflatten_dict(flat, sep="/")}, pixels, scales)

    ones = np.ones((4, 2, 2), np.float32)
    plain = features(flat, ones)
    for block, end in ends:
        scales = ones.copy()
        scales[block, 1, int(end.endswith("mlp/out"))] = 2.5
        found = features(flat, scales)
        larger = {
            path: 2.5 * x
            for path, x in flat.items()
            if path.startswith(f"{end}/") and not batch_norm.is_statistic(path)
        }
        assert len(larger) == 2
        wanted = features({**flat, **larger}, ones)
        np.testing.assert_allclose(found[0], plain[0], atol=1e-5)
        np.testing.assert_allclose(found[1], wanted[1], atol=1e-4)
        assert np.abs(wanted[1] - plain[1]).max() > 1e-2, end
