"""Resampling against torch and its recorded results; position codes against their formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from esam_jax.errors import ConfigError
from esam_jax.evaluate import golden
from esam_jax.ops import positions

GOLDEN = np.load(golden.FOLDER / "ops.npz")
RESIZE = {"bicubic": positions.bicubic_resize, "bilinear": positions.bilinear_resize}
RELATIVE_LIMIT = 2e-5  # torch's own sampling coordinates are float32


def relative(found, expected):
    return np.abs(found - expected).max() / np.sqrt((expected**2).mean())


@pytest.mark.parametrize(
    "name", ["bicubic_64", "bicubic_37x20", "bicubic_9x11", "bilinear_64", "bilinear_9x20"]
)
def test_resize_is_that_of_torch_as_recorded(name):
    expected = GOLDEN[f"interp/{name}"].transpose(0, 2, 3, 1)
    x = jnp.asarray(GOLDEN["interp/in"].transpose(0, 2, 3, 1))
    found = RESIZE[name.split("_")[0]](x, *expected.shape[1:3])
    assert relative(np.asarray(found), expected) < RELATIVE_LIMIT


@pytest.mark.parametrize("kind", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(1, 1), (3, 17), (40, 2), (5, 7)])
def test_resize_is_that_of_torch(kind, size):
    torch = pytest.importorskip("torch", reason="compares with torch")
    x = np.random.default_rng(0).normal(size=(2, 5, 7, 3)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(x).permute(0, 3, 1, 2), size, mode=kind, align_corners=False
    )
    found = RESIZE[kind](jnp.asarray(x), *size)
    assert relative(np.asarray(found), expected.permute(0, 2, 3, 1).numpy()) < RELATIVE_LIMIT


@pytest.mark.parametrize("length", [1, 4, 7, 13, 40])
def test_linear_resize_is_that_of_torch(length):
    torch = pytest.importorskip("torch", reason="compares with torch")
    table = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(table).T[None], length, mode="linear", align_corners=False
    )
    found = positions.linear_resize(jnp.asarray(table), length)
    assert relative(np.asarray(found), expected[0].T.numpy()) < RELATIVE_LIMIT


def test_same_size_is_left_alone_to_the_bit():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 7, 2)), jnp.float32)
    assert positions.bicubic_resize(x, 5, 7) is x
    assert (positions.bicubic_resize(x, 5, 9)[:, 0] != 0).all()


def test_resample_leaves_the_class_slot_out():
    grid = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    with_class = np.concatenate([np.full((1, 4), 1e6, np.float32), grid])
    plain = positions.resample(jnp.asarray(grid), 5, 6)
    assert plain.shape == (5, 6, 4)
    np.testing.assert_array_equal(positions.resample(jnp.asarray(with_class), 5, 6), plain)
    untouched = positions.resample(jnp.asarray(with_class), 3, 3)
    np.testing.assert_array_equal(untouched.reshape(9, 4), grid)


def test_resample_refuses_a_table_that_is_no_square():
    with pytest.raises(ConfigError, match="12 slots"):
        positions.resample(jnp.zeros((12, 4)), 3, 4)


def test_fourier_is_the_formula_with_x_in_row_0():
    matrix = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    x, y = 0.25, 0.75
    angle = 2 * np.pi * ((2 * x - 1) * matrix[0] + (2 * y - 1) * matrix[1])
    found = positions.fourier(jnp.asarray([[x, y]]), jnp.asarray(matrix))
    np.testing.assert_allclose(found[0], np.r_[np.sin(angle), np.cos(angle)], atol=2e-6)


def test_dense_fourier_codes_the_cell_centres():
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)), jnp.float32)
    dense = positions.dense_fourier(matrix, 4, 5)
    assert dense.shape == (4, 5, 6)
    centre = jnp.asarray([(3 + 0.5) / 5, (2 + 0.5) / 4])  # column 3, row 2
    np.testing.assert_allclose(dense[2, 3], positions.fourier(centre, matrix), atol=2e-6)


def test_sincos_tells_cells_apart_and_columns_from_rows():
    table = positions.sincos(4, 5, 8).reshape(4, 5, 8)
    assert len(np.unique(table.reshape(20, 8), axis=0)) == 20
    # MAE puts columns into the first half, rows into the second (pos_embed.py, grid w first).
    assert (table[0, :, :4] == table[3, :, :4]).all() and (table[:, 0, 4:] == table[:, 4, 4:]).all()
    np.testing.assert_allclose(table[2, 3, [0, 2]], [np.sin(3), np.cos(3)], rtol=1e-6)
    np.testing.assert_allclose(table[2, 3, [5, 7]], [np.sin(0.02), np.cos(0.02)], rtol=1e-6)


def test_sincos_leaves_channels_beyond_a_multiple_of_4_at_zero():
    table = positions.sincos(2, 3, 10)
    assert table.shape == (6, 10) and (table[:, 8:] == 0).all()


@pytest.mark.parametrize("kind", ["linear", "cubic"])
@pytest.mark.parametrize(("old", "new"), [(14, 9), (14, 14), (14, 37), (14, 3), (1, 5)])
def test_taps_are_the_rows_of_the_matrix(old: int, new: int, kind: positions.Kind):
    """Larger, smaller and alike, with replicated edges where taps fall together."""
    x, taps = np.random.default_rng(1).normal(size=old), positions.taps(old, new, kind)
    assert (np.diff(taps.places, axis=1) >= 0).all()
    wanted = positions.weights(old, new, kind) @ x
    np.testing.assert_allclose((taps.weights * x[taps.places]).sum(axis=1), wanted, atol=2e-6)
    np.testing.assert_allclose(taps.weights.sum(axis=1), 1)


def test_taps_one_after_the_other_are_the_product_of_their_matrices():
    first, then = positions.taps(5, 11, "linear"), positions.taps(9, 7, "cubic")
    wanted = then.matrix(11) @ first.matrix(5)
    np.testing.assert_allclose(then.after(first).matrix(5), wanted, atol=1e-6)


def test_a_part_of_taps_is_filled_up_with_the_last():
    taps = positions.taps(5, 11, "cubic")
    matrix = taps.part(8, 6).matrix(5)
    np.testing.assert_array_equal(matrix[:3], taps.matrix(5)[8:])
    np.testing.assert_array_equal(matrix[3:], taps.matrix(5)[[-1] * 3])
