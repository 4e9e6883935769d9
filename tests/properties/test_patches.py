"""Patching and windows invert, for any sizes."""

import einops
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from esam_jax.ops import attention, patches

size = st.integers(1, 5)


@settings(max_examples=10)  # nearly every example is a new shape, compiled anew
@given(size, size, size, size, size)
def test_patches_invert(images, rows, cols, px, channels):
    shape = (images, rows * px, cols * px, channels)
    image = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    cut = jax.jit(patches.patchify, static_argnums=1)(image, px)
    assert cut.shape == (images, rows, cols, px * px * channels)
    back = einops.rearrange(np.asarray(cut), "b h w (p q c) -> b (h p) (w q) c", p=px, q=px)
    np.testing.assert_array_equal(back, image)


@settings(max_examples=6)
@given(size, st.integers(1, 11), st.integers(1, 11), st.integers(1, 6))
def test_windows_invert(images, h, w, window):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(images, h, w, 2)), jnp.float32)
    windows, padded = attention.to_windows(x, window)
    assert windows.shape[0] == images * (padded[0] // window) * (padded[1] // window)
    np.testing.assert_allclose(windows.sum(), x.sum(), atol=1e-3)  # the padding is zeros
    np.testing.assert_array_equal(attention.from_windows(windows, padded, (h, w)), x)
