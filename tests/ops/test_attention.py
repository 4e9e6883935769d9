"""Attention against its definition, relative positions and windows against recorded results."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esam_jax.errors import ConfigError
from esam_jax.evaluate import golden
from esam_jax.ops import attention

GOLDEN = np.load(golden.FOLDER / "ops.npz")


def slow_attention(q, k, v, scale, bias=0.0):
    """The definition, in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    scores = np.einsum("...qak,...sak->...aqs", q, k) * scale + bias
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("...aqs,...sac->...qac", weights, v)


def slow_relative_bias(q, rel_rows, rel_cols, grid):
    """N x N: q . rel_rows[i_q - i_k + h - 1] + q . rel_cols[j_q - j_k + w - 1], pair by pair."""
    h, w = grid
    q = np.asarray(q, np.float64)
    bias = np.zeros((q.shape[0], q.shape[2], h * w, h * w))
    for n in range(h * w):
        for s in range(h * w):
            vector = rel_rows[n // w - s // w + h - 1] + rel_cols[n % w - s % w + w - 1]
            bias[:, :, n, s] = q[:, n] @ np.asarray(vector, np.float64)
    return bias


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.fixture(params=["cpu", "gpu"])
def backend(request):
    """Chunks are cut in another way for a CPU; that of the others runs on it as well."""
    with attention.target(request.param):
        yield


@pytest.mark.parametrize("impl", ["auto", "xla", "chunked"])
@pytest.mark.parametrize("tokens", [5, 300, 1100])  # under one chunk of queries, and over
def test_attend_is_the_definition(impl, tokens, backend):
    q, k, v = normal(0, 2, tokens, 3, 4), normal(1, 2, 7, 3, 4), normal(2, 2, 7, 3, 6)
    np.testing.assert_allclose(
        attention.attend(q, k, v, impl=impl), slow_attention(q, k, v, 4**-0.5), atol=2e-6
    )
    np.testing.assert_allclose(
        attention.attend(q, k, v, scale=1.0, impl=impl), slow_attention(q, k, v, 1.0), atol=2e-6
    )


def test_bias_is_added_to_scaled_scores():
    q, k, v, bias = (
        normal(0, 2, 5, 3, 4),
        normal(1, 2, 7, 3, 4),
        normal(2, 2, 7, 3, 6),
        normal(3, 3, 5, 7),
    )
    expected = slow_attention(q, k, v, 0.5, bias)
    for impl in ("auto", "xla"):
        found = attention.attend(q, k, v, bias=bias, impl=impl)
        np.testing.assert_allclose(found, expected, atol=2e-6)
    with pytest.raises(ConfigError, match="'chunked' takes no bias"):
        attention.attend(q, k, v, bias=bias, impl="chunked")


def test_keys_that_are_not_seen_might_as_well_not_be_there():
    q, k, v = normal(0, 2, 5, 3, 4), normal(1, 2, 7, 3, 4), normal(2, 2, 7, 3, 6)
    seen = np.array([[1, 0, 1, 1, 0, 1, 1], [0, 1, 1, 1, 1, 1, 0]], bool)
    found = attention.attend(q, k, v, seen=jnp.asarray(seen))
    for i, kept in enumerate(seen):
        alone = slow_attention(q[i : i + 1], k[i : i + 1, kept], v[i : i + 1, kept], 0.5)
        np.testing.assert_allclose(found[i : i + 1], alone, atol=2e-6)
    with pytest.raises(ConfigError, match="'chunked' takes no bias or mask"):
        attention.attend(q, k, v, seen=jnp.asarray(seen), impl="chunked")


def test_a_causal_query_sees_the_keys_up_to_its_own():
    q, k, v = normal(0, 2, 5, 3, 4), normal(1, 2, 5, 3, 4), normal(2, 2, 5, 3, 6)
    found = attention.attend(q, k, v, causal=True)
    for i in range(5):
        alone = slow_attention(q[:, i : i + 1], k[:, : i + 1], v[:, : i + 1], 0.5)
        np.testing.assert_allclose(found[:, i : i + 1], alone, atol=2e-6)
    with pytest.raises(ConfigError, match="'chunked' takes no bias or mask"):
        attention.attend(q, k, v, causal=True, impl="chunked")


def test_distance_biases_go_by_rows_and_columns_apart():
    table = np.arange(2 * 9, dtype=np.float32).reshape(2, 9)
    biases = np.asarray(attention.distance_biases(jnp.asarray(table), 3))
    for i in range(9):
        for j in range(9):
            far = abs(i // 3 - j // 3) * 3 + abs(i % 3 - j % 3)
            np.testing.assert_array_equal(biases[:, i, j], table[:, far])


@pytest.mark.parametrize("impl", ["xla", "chunked"])
def test_leading_axes_broadcast(impl, backend):
    image, prompts = normal(0, 2, 1, 9, 3, 4), normal(1, 2, 5, 7, 3, 4)
    for q, k in ((image, prompts), (prompts, image)):
        found = attention.attend(q, k, k, impl=impl)
        np.testing.assert_allclose(found, slow_attention(q, k, k, 0.5), atol=2e-6)


@pytest.mark.parametrize("impl", ["xla", "chunked"])
@pytest.mark.parametrize("size", [1.0, 7.0, 1e4])  # of which a CPU shifts the scores of all but one
def test_large_scores_do_not_overflow(impl, size, backend):
    q = jnp.full((1, 2, 1, 2), size)
    np.testing.assert_allclose(attention.attend(q, q, q, impl=impl), q, rtol=1e-6)
    keys = jnp.concatenate([q, -q, 0 * q], axis=1)
    expected = slow_attention(q, keys, keys, 2**-0.5)
    np.testing.assert_allclose(attention.attend(q, keys, keys, impl=impl), expected, rtol=1e-5)


def test_gradients_agree_between_implementations(backend):
    q, k, v = normal(0, 1, 1100, 2, 4), normal(1, 1, 5, 2, 4), normal(2, 1, 5, 2, 4)

    def loss(impl, q, k, v):
        return (attention.attend(q, k, v, impl=impl) ** 2).sum()

    plain, chunked = (
        jax.jit(jax.grad(functools.partial(loss, impl), argnums=(0, 1, 2)))(q, k, v)
        for impl in ("xla", "chunked")
    )
    for a, b in zip(plain, chunked, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("score", [-58.0, -40.0, -29.0, 29.0, 40.0, 58.0])
def test_gradients_agree_wherever_the_scores_lie(score, backend):
    """All near one number, so that only their differences matter, and these are small."""
    q = jnp.asarray([[[[1.0, 0.1]], [[1.0, -0.1]]]])
    k = jnp.concatenate([jnp.full((1, 2048, 1, 1), score), normal(0, 1, 2048, 1, 1)], axis=-1)

    def loss(impl, q):
        return (attention.attend(q, k, k[..., 1:], scale=1.0, impl=impl) ** 2).sum()

    plain, chunked = (
        jax.jit(jax.grad(functools.partial(loss, impl)))(q) for impl in ("xla", "chunked")
    )
    np.testing.assert_allclose(plain, chunked, rtol=2e-3, atol=2e-3 * float(np.abs(plain).max()))


def test_chunks_store_no_score_matrix(backend):
    tokens = 8192
    x = jax.ShapeDtypeStruct((1, tokens, 1, 8), jnp.float32)

    def loss(impl, x):
        return attention.attend(x, x, x, impl=impl).sum()

    plain, chunked = (
        jax.jit(jax.grad(functools.partial(loss, impl))).lower(x).compile().memory_analysis()
        for impl in ("xla", "chunked")
    )
    assert plain.temp_size_in_bytes > 4 * tokens**2 > 2 * chunked.temp_size_in_bytes


def test_softmax_is_float32_under_bfloat16():
    # 512 equal weights: summed in bfloat16 they would stop growing at 256.
    q, k = jnp.zeros((1, 3, 1, 8), jnp.bfloat16), jnp.zeros((1, 512, 1, 8), jnp.bfloat16)
    out = attention.attend(q, k, jnp.ones_like(k))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(out, np.float32), 1.0)


@pytest.mark.parametrize(
    ("backend", "tokens", "head_dim", "dtype", "limit", "expected"),
    [
        ("cpu", (1024, 1024), 64, "float32", 128, "xla"),
        ("cpu", (1025, 1025), 64, "float32", 128, "chunked"),
        ("cpu", (4096, 7), 64, "float32", 128, "xla"),  # few keys: a small score matrix
        ("tpu", (4096, 4096), 64, "bfloat16", 0, "splash"),
        ("tpu", (4096, 4096), 208, "bfloat16", 0, "splash"),
        ("tpu", (147, 196), 32, "bfloat16", 0, "splash"),  # padded to whole tiles
        ("tpu", (49, 49), 64, "bfloat16", 0, "xla"),  # SAMI's student: less than one tile
        ("tpu", (4096, 4096), 320, "bfloat16", 0, "chunked"),  # wider than its blocks allow
        ("tpu", (4096, 4096), 64, "float32", 0, "chunked"),
        ("gpu", (196, 196), 108, "bfloat16", 256, "cudnn"),  # a window of SAM's encoder
        ("gpu", (147, 196), 32, "bfloat16", 256, "cudnn"),  # SAMI's masked tokens: one is padded
        ("gpu", (196, 49), 32, "bfloat16", 256, "xla"),  # an odd number of keys
        ("gpu", (32, 31), 32, "bfloat16", 256, "xla"),
        ("gpu", (32, 32), 32, "bfloat16", 256, "cudnn"),
        ("gpu", (30, 196), 32, "bfloat16", 256, "xla"),  # few tokens: mostly empty tiles
        ("gpu", (196, 196), 64, "bfloat16", 0, "xla"),  # no such kernel: before Ampere, AMD
        ("gpu", (4096, 4096), 64, "bfloat16", 0, "chunked"),
        ("gpu", (4096, 4096), 208, "bfloat16", 256, "cudnn"),
        ("gpu", (4096, 4096), 208, "bfloat16", 128, "chunked"),  # A100: folded heads too wide
        ("gpu", (4096, 4096), 64, "float32", 256, "chunked"),
        ("gpu", (1089, 1089), 64, "bfloat16", 256, "chunked"),  # odd
    ],
)
def test_choice(backend, tokens, head_dim, dtype, limit, expected):
    choose = functools.partial(
        attention.choose,
        backend=backend,
        tokens=tokens,
        head_dim=head_dim,
        dtype=dtype,
        max_head_dim=limit,
    )
    assert choose("auto") == expected
    assert choose("xla") == "xla"


def test_cudnn_by_name_leaves_odd_lengths_to_the_others():
    choose = functools.partial(
        attention.choose, "cudnn", backend="gpu", head_dim=64, dtype="bfloat16"
    )
    assert choose(tokens=(196, 196)) == "cudnn"
    assert choose(tokens=(49, 49)) == "xla"
    assert choose(tokens=(1089, 1089)) == "chunked"


@pytest.mark.parametrize("tokens", [6, 7])
def test_the_fused_kernel_is_given_even_lengths_and_one_width(tokens, monkeypatch):
    """Padded queries and channels change nothing, in the result and in gradients."""
    given = []

    def plain(q, k, v, *, scale, implementation):
        given.append((implementation, q.shape, k.shape, v.shape))
        return dot_product_attention(q, k, v, scale=scale, implementation="xla")

    dot_product_attention = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", plain)
    q, k, v = normal(0, 2, tokens, 3, 12), normal(1, 2, 8, 3, 12), normal(2, 2, 8, 3, 10)
    q, k, v = (x.astype(jnp.bfloat16).astype(jnp.float32) for x in (q, k, v))

    def loss(q, k, v):
        return (attention.attend(q, k, v, impl=impl).astype(jnp.float32) ** 2).sum()

    with attention.target("gpu", 256):
        impl = "cudnn"
        half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
        found = attention.attend(*half, impl=impl)
        ours = jax.jit(jax.grad(loss, (0, 1, 2)))(*half)
        impl = "xla"
        expected = jax.jit(jax.grad(loss, (0, 1, 2)))(q, k, v)
    assert given[0] == ("cudnn", (2, 8 if tokens == 7 else 6, 3, 16), (2, 8, 3, 16), (2, 8, 3, 16))
    slow = slow_attention(q, k, v, 12**-0.5)
    assert found.shape == slow.shape and np.abs(found - slow).max() < 0.02
    for one, other in zip(ours, expected, strict=True):
        assert np.abs(one - other).max() < 0.03 * np.abs(other).max()


@pytest.mark.parametrize(
    ("capability", "width"),
    [("7.5", 0), ("8.0", 128), ("8.9", 128), ("9.0", 256), ("10.0", 256), ("gfx942", 0), (None, 0)],
)
def test_what_a_card_says_of_itself(capability, width):
    assert attention.fused_width(capability) == width


def test_impossible_choices_are_refused():
    with pytest.raises(ConfigError, match=r"cudnn.*cpu.*use 'auto'"):
        attention.choose("cudnn", backend="cpu", tokens=(9, 9), head_dim=8, dtype="bfloat16")
    with pytest.raises(ConfigError, match="flash"):
        attention.choose("flash", backend="cpu", tokens=(9, 9), head_dim=8, dtype="float32")


@pytest.mark.parametrize("size", [5, 14, 16, 64])
def test_relative_table_is_the_original_as_recorded(size):
    expected = GOLDEN[f"relpos/q{size}_k{size}"]
    found = attention.relative_table(jnp.asarray(GOLDEN["relpos/table"]), size)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.sqrt((expected**2).mean()))


def test_folded_channels_are_the_original_term_as_recorded():
    q = jnp.asarray(GOLDEN["relpos/q"])[:, :, None, :]
    tables = (jnp.asarray(GOLDEN[f"relpos/table_{axis}"]) for axis in "hw")
    q2, k2 = attention.fold_relative_positions(q, jnp.zeros_like(q), *tables, (3, 5), 1.0)
    expected = GOLDEN["relpos/added_to_zero"]
    found = np.einsum("bnak,bsak->bns", q2, k2)
    assert np.abs(found - expected).max() < 2e-5 * np.sqrt((expected**2).mean())


def test_folded_attention_is_the_plain_formula():
    grid, q, k, v = (3, 4), normal(0, 2, 12, 3, 5), normal(1, 2, 12, 3, 5), normal(2, 2, 12, 3, 5)
    rows, cols = normal(3, 5, 5), normal(4, 7, 5)
    expected = slow_attention(q, k, v, 0.3, slow_relative_bias(q, rows, cols, grid))

    @jax.jit
    def attend(q, k, v, rows, cols):
        folded = attention.fold_relative_positions(q, k, rows, cols, grid, 0.3)
        return attention.attend(*folded, v, scale=1.0)

    np.testing.assert_allclose(attend(q, k, v, rows, cols), expected, atol=1e-5)


def test_windows_are_the_original_as_recorded():
    x = jnp.asarray(GOLDEN["window/in"])
    windows, padded = attention.to_windows(x, 4)
    np.testing.assert_array_equal(windows, GOLDEN["window/parts"])
    assert padded == (12, 12)
    np.testing.assert_array_equal(attention.from_windows(windows, padded, (9, 11)), x)
