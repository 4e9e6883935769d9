"""Frames of points, against SAM's own numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

from esam_jax.evaluate import golden
from esam_jax.ops import geometry

GOLDEN = np.load(golden.FOLDER / "ops.npz")


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (768, 1024)),
        ((1200, 1800), (683, 1024)),
        ((1800, 1200), (1024, 683)),
        ((333, 100), (1024, 308)),
        ((1, 7), (146, 1024)),
        ((1023, 1025), (1022, 1024)),
        ((767, 1023), (768, 1024)),
        ((1024, 1024), (1024, 1024)),
        ((534, 800), (684, 1024)),
        ((3000, 17), (1024, 6)),
        ((1, 3000), (1, 1024)),  # SAM: no row at all
    ],
)
def test_longest_side_rounds_as_sam(size, expected):
    assert geometry.longest_side(*size, 1024) == expected


@pytest.mark.parametrize("size", [(480, 640), (1200, 1800), (333, 100)])
def test_padded_points_are_those_of_sam(size):
    points = GOLDEN["coords/in"]
    expected = GOLDEN[f"coords/{size[0]}x{size[1]}"].astype(np.float32)
    np.testing.assert_array_equal(geometry.to_model(points, *size, 1024, "pad"), expected)
    on_device = geometry.to_model(jnp.asarray(points, jnp.float32), *size, 1024, "pad")
    np.testing.assert_allclose(on_device, expected, rtol=1e-6)


def test_stretched_points_scale_by_axis():
    points = np.array([[0.0, 0.0], [10.0, 5.0], [-3.0, 4.0]])
    found = geometry.to_model(points, 20, 40, 64, "stretch")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.float32([[0, 0], [16, 16], [-4.8, 12.8]]))
    parity = geometry.to_model(points, 20, 40, 64, "stretch", negative="minus_one")
    np.testing.assert_array_equal(parity, np.float32([[0, 0], [16, 16], [-1, 12.8]]))
