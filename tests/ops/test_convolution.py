"""Shifted products against the compiler's own convolution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from esam_jax import sharding
from esam_jax.config import MeshConfig
from esam_jax.ops import convolution
from esam_jax.plan import collectives


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


@pytest.mark.parametrize("mesh", [None, MeshConfig(data=2, fsdp=2, tensor=2)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("batch", [4, 3])
def test_groups_see_their_own_channels_on_any_mesh(mesh, stride, batch):
    """Against one convolution for each group; three pictures do not divide among four devices."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(batch, 6, 5, 8)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 2, 12)), jnp.float32)
    expected = [
        lax.conv_general_dilated(
            x[..., 2 * i : 2 * i + 2],
            kernel[..., 3 * i : 3 * i + 3],
            (stride, stride),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        for i in range(4)
    ]
    run = functools.partial(convolution.grouped, stride=stride, split=sharding.BATCH_AXES)
    if mesh is None:
        found = run(x, kernel)
    else:
        made = sharding.make_mesh(mesh)
        alike = sharding.replicated(made)
        rows = sharding.batch(made) if batch == 4 else alike
        with sharding.activations(made):
            found = jax.jit(run, in_shardings=(rows, alike), out_shardings=rows)(x, kernel)
    np.testing.assert_allclose(found, np.concatenate(expected, -1), atol=1e-5)


def test_a_mesh_collects_no_pictures_for_a_convolution_in_groups():
    mesh = sharding.make_mesh(MeshConfig(data=4, fsdp=2))
    rows, all_of_it = sharding.batch(mesh), sharding.replicated(mesh)
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((8, 6, 5, 8), (3, 3, 2, 8))]

    def program(run):
        split = jax.jit(run, in_shardings=(rows, all_of_it), out_shardings=rows)
        with sharding.activations(mesh):
            return {
                each.kind for each in collectives.parse(split.lower(*shapes).compile().as_text())
            }

    def plain(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=4
        )

    assert "all-gather" in program(plain)  # else `grouped` has outlived its reason
    assert not program(functools.partial(convolution.grouped, split=sharding.BATCH_AXES))
