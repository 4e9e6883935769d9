"""Shifted products against the compiler's own convolution."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from esam_jax.ops import convolution


@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(6, 7), (5, 4)])
def test_depthwise_is_a_grouped_convolution(side, stride, size):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(side, side, 3)), jnp.float32)
    expected = lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (stride, stride),
        [(side // 2, side // 2)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=3,
    )
    found = convolution.depthwise(x, kernel, stride)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_sums_are_float32_whatever_is_summed():
    x = jnp.full((1, 4, 4, 2), 1.0, jnp.bfloat16)
    kernel = jnp.full((3, 3, 2), 1 + 2.0**-12)  # rounds to 1 in bfloat16
    found = convolution.depthwise(x, kernel)
    assert found.dtype == jnp.float32 and found[0, 1, 1, 0] == 9 * (1 + 2.0**-12)
