"""What a patch holds."""

import jax.numpy as jnp
import numpy as np
import pytest

from esam_jax.errors import ConfigError
from esam_jax.ops import patches


def test_a_patch_is_rows_then_columns_then_channels():
    image = np.arange(1 * 4 * 6 * 3).reshape(1, 4, 6, 3)
    found = patches.patchify(jnp.asarray(image), 2)
    assert found.shape == (1, 2, 3, 12)
    np.testing.assert_array_equal(found[0, 1, 2], image[0, 2:4, 4:6].ravel())


def test_cut_patches_are_refused():
    with pytest.raises(ConfigError, match=r"5 x 8 pixels.*a multiple of 4"):
        patches.patchify(jnp.zeros((1, 5, 8, 3)), 4)


def test_standardised_patches_have_mean_0_and_unbiased_variance_1():
    x = np.random.default_rng(0).normal(3, 7, (2, 5, 12)).astype(np.float32)
    found = np.asarray(patches.standardise(jnp.asarray(x, jnp.bfloat16)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(found.var(-1, ddof=1), 1, rtol=1e-5)
    assert not np.asarray(patches.standardise(jnp.full((1, 4), 0.5))).any()  # not NaN
