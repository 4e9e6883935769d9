"""Layers against their formulas, and what `ComputeConfig` may and may not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from esam_jax.config import ComputeConfig
from esam_jax.models.parts import layers

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


@pytest.mark.parametrize("eps", [1e-6, 1e-5])
def test_layer_norm_uses_its_epsilon(eps):
    x = normal(3, 8) * 1e-3  # a variance near the epsilon
    norm = layers.LayerNorm(eps)
    params = jax.jit(norm.init)(jax.random.key(0), x)
    wide = np.asarray(x, np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + eps)
    np.testing.assert_allclose(norm.apply(params, x), expected, rtol=2e-5, atol=1e-6)


def test_layer_norm_of_a_large_mean_keeps_its_bits():
    x = normal(2, 16) + 4096.0  # E[x^2] - E[x]^2 would be wrong by several units here
    norm = layers.LayerNorm(1e-6)
    found = norm.apply(jax.jit(norm.init)(jax.random.key(0), x), x)
    wide = np.asarray(x, np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / wide.std(-1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_gelu_is_the_exact_one():
    x = np.linspace(-4, 4, 33, dtype=np.float32)
    expected = x * 0.5 * (1 + special.erf(x / np.sqrt(2)))
    np.testing.assert_allclose(layers.gelu(jnp.asarray(x)), expected, atol=1e-6)


def test_attention_is_its_formula():
    q, kv = normal(2, 3, 8), normal(2, 5, 6)
    attn = layers.Attention(heads=2)
    params = jax.jit(attn.init)(jax.random.key(0), q, kv)["params"]
    assert jax.tree.map(jnp.shape, params) == {
        "query": {"kernel": (8, 2, 4), "bias": (2, 4)},
        "key": {"kernel": (6, 2, 4), "bias": (2, 4)},
        "value": {"kernel": (6, 2, 4), "bias": (2, 4)},
        "out": {"kernel": (2, 4, 8), "bias": (8,)},
    }
    params = jax.tree.map(lambda x: normal(*x.shape), params)

    def project(x, p):
        return np.einsum("bnd,dak->bnak", x, p["kernel"]) + p["bias"]

    scores = np.einsum("bqak,bsak->baqs", project(q, params["query"]), project(kv, params["key"]))
    weights = special.softmax(scores * 4**-0.5, axis=-1)
    mixed = np.einsum("baqs,bsak->bqak", weights, project(kv, params["value"]))
    expected = np.einsum("bqak,akd->bqd", mixed, params["out"]["kernel"]) + params["out"]["bias"]
    np.testing.assert_allclose(jax.jit(attn.apply)({"params": params}, q, kv), expected, atol=2e-5)


def test_neck_convolves_without_flipping():
    x = normal(2, 4, 5, 3)
    neck = layers.Neck(6)
    params = jax.jit(neck.init)(jax.random.key(0), x)["params"]

    def norm(y):
        return (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)

    y = norm(np.asarray(x, np.float64) @ np.asarray(params["project"]["kernel"]))
    padded = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = np.asarray(params["smooth"]["kernel"])
    taps = [padded[:, i : i + 4, j : j + 5] @ kernel[i, j] for i in range(3) for j in range(3)]
    np.testing.assert_allclose(
        jax.jit(neck.apply)({"params": params}, x), norm(sum(taps)), atol=1e-5
    )


def test_block_is_pre_norm_with_two_residuals():
    x = normal(2, 3, 8)
    block = layers.Block(lambda name: layers.Attention(2, name=name), mlp_width=12)
    params = jax.jit(block.init)(jax.random.key(0), x)["params"]
    assert sorted(params) == ["attn", "attn_norm", "mlp", "mlp_norm"]
    # With both branches' last maps at zero nothing but the residuals is left.
    for branch in ("attn", "mlp"):
        params[branch]["out"] = jax.tree.map(jnp.zeros_like, params[branch]["out"])
    np.testing.assert_array_equal(jax.jit(block.apply)({"params": params}, x), x)


def test_bfloat16_changes_products_but_not_parameters():
    x = normal(2, 3, 8)
    attention = layers.Attention
    plain = layers.Block(lambda name: attention(2, name=name), 12)
    half = ComputeConfig(dtype="bfloat16")
    fast = layers.Block(lambda name: attention(2, compute=half, name=name), 12, half)
    params = jax.jit(plain.init)(jax.random.key(0), x)
    again = jax.jit(fast.init)(jax.random.key(0), x)
    assert jax.tree.map(lambda a, b: (a == b).all() and b.dtype == jnp.float32, params, again)
    found = jax.jit(fast.apply)(params, x.astype(jnp.bfloat16))
    assert found.dtype == jnp.bfloat16
    expected = jax.jit(plain.apply)(params, x)
    # Eight bits of mantissa, a handful of roundings.
    np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=0.05)
    assert (found != expected).any()


@pytest.mark.parametrize("name", ["query", "mlp", "neck"])
def test_highest_precision_reaches_every_product(name):
    compute = ComputeConfig(precision="highest")
    module, x = {
        "query": (layers.Attention(2, compute=compute), normal(1, 3, 8)),
        "mlp": (layers.Mlp(12, compute=compute), normal(1, 3, 8)),
        "neck": (layers.Neck(6, compute), normal(1, 4, 5, 8)),
    }[name]
    params = jax.jit(module.init)(jax.random.key(0), x)
    text = str(jax.make_jaxpr(module.apply)(params, x))
    products = text.count("dot_general[") + text.count("conv_general_dilated[")
    assert products > 0 and text.count("precision=(Precision.HIGHEST") == products
