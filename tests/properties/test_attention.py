"""What attention does not depend on. Few shapes, many values: each new shape is compiled anew."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.ops import attention

seeds = st.integers(0, 2**31)
impls = st.sampled_from(["xla", "chunked"])
attend = jax.jit(attention.attend, static_argnames="impl")
fold = jax.jit(attention.fold_relative_positions, static_argnames=("grid", "scale"))


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@given(seeds, st.sampled_from([(5, 3, 2), (300, 4, 1)]), impls)
def test_order_of_keys_does_not_matter_and_that_of_queries_carries_over(seed, sizes, impl):
    n, s, heads = sizes
    q, k, v = normal(seed, 2, n, heads, 4), normal(1, 2, s, heads, 4), normal(2, 2, s, heads, 3)
    rng = np.random.default_rng(seed)
    queries, keys = rng.permutation(n), rng.permutation(s)
    found = attend(q[:, queries], k[:, keys], v[:, keys], impl=impl)
    expected = attend(q, k, v, impl=impl)[:, queries]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@given(seeds, st.integers(0, 2), st.integers(0, 1), impls)
def test_heads_and_images_do_not_see_each_other(seed, image, head, impl):
    q, k = normal(seed, 3, 5, 2, 4), normal(seed + 1, 3, 6, 2, 4)
    mine = np.zeros((3, 1, 2, 1), bool)
    mine[image, :, head] = True
    among_others = attend(q, k, k, impl=impl)
    k_alone = jnp.where(mine, k, 0)
    alone = attend(jnp.where(mine, q, 0), k_alone, k_alone, impl=impl)
    np.testing.assert_allclose(alone[image, :, head], among_others[image, :, head], atol=1e-6)


@given(seeds, st.sampled_from([(2, 3), (4, 3)]))
def test_relative_positions_depend_on_differences_alone(seed, grid):
    """With all queries equal, the folded score of a pair is a function of where it points."""
    h, w = grid
    rows, cols = normal(seed, 2 * h - 1, 3), normal(seed + 1, 2 * w - 1, 3)
    q = jnp.broadcast_to(normal(seed + 2, 3), (1, h * w, 1, 3))
    folded = fold(q, jnp.zeros_like(q), rows, cols, grid=grid, scale=1.0)
    scores = np.einsum("bnak,bsak->ns", *folded).reshape(h, w, h, w)
    for i in range(h - 1):
        for j in range(w - 1):
            shifted = scores[i + 1, j + 1, 1:, 1:]
            np.testing.assert_allclose(shifted, scores[i, j, :-1, :-1], atol=1e-5)
