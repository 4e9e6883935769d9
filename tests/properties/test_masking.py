"""Visible and masked tokens split every image, and come back in its order."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from esam_jax.ops import masking

choose = jax.jit(masking.choose, static_argnums=(1, 2, 3))
sizes = st.sampled_from([(1, 1, 1), (3, 12, 0), (2, 12, 3), (4, 5, 5)])


@jax.jit
def there_and_back(x, visible, masked):
    order = masking.order(visible, masked)
    halves = [masking.gather(x, indices) for indices in (visible, masked)]
    return masking.restore(jnp.concatenate(halves, axis=1), order)


@given(st.integers(0, 2**31), sizes)
def test_choice_splits_and_restores(seed, sizes):
    images, tokens, visible_count = sizes
    visible, masked = choose(jax.random.key(seed), images, tokens, visible_count)
    assert visible.shape == (images, visible_count)
    both = np.concatenate([visible, masked], axis=1)
    np.testing.assert_array_equal(np.sort(both, axis=1), np.tile(np.arange(tokens), (images, 1)))
    x = jnp.arange(images * tokens * 2, dtype=jnp.float32).reshape(images, tokens, 2)
    np.testing.assert_array_equal(there_and_back(x, visible, masked), x)
