"""Checksums: equal on devices, on the host and on every mesh; different for any other content."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from esam_jax import sharding
from esam_jax.config import MeshConfig
from esam_jax.train.checkpoint import checksums

TYPES = (np.float32, np.int32, np.uint8, np.float16, ml_dtypes.bfloat16)
SHAPES = ((), (1,), (7,), (3, 5), (2, 3, 4), (0, 3))


@st.composite
def contents(draw, shapes=SHAPES):
    dtype = np.dtype(draw(st.sampled_from(TYPES)))
    shape = draw(st.sampled_from(shapes))
    bits = arrays.arrays(f"uint{8 * dtype.itemsize}", shape)
    return draw(bits).view(dtype)


@settings(max_examples=60, deadline=None)
@given(contents())
def test_numpy_and_xla_agree(values):
    on_device = int(checksums.array_sum(jax.device_put(values)))
    assert checksums.of_array(values) == on_device
    assert checksums.of_array(np.asfortranarray(values)) == on_device


@settings(max_examples=200, deadline=None)
@given(contents(((7,), (3, 5), (2, 3, 4))), st.data())
def test_any_flipped_bits_of_one_element_are_found(values, data):
    spoilt = values.copy()
    bits = spoilt.reshape(-1).view(f"uint{8 * values.dtype.itemsize}")
    place = data.draw(st.integers(0, bits.size - 1))
    bits[place] ^= data.draw(st.integers(1, 2 ** (8 * values.dtype.itemsize) - 1))
    assert checksums.of_array(spoilt) != checksums.of_array(values)


@settings(max_examples=200, deadline=None)
@given(contents(((4, 6), (6, 2, 2))), st.permutations(range(4)))
def test_permuted_rows_are_found(values, order):
    moved = values.copy()
    moved[:4] = values[:4][list(order)]
    assume(moved.tobytes() != values.tobytes())
    assert checksums.of_array(moved) != checksums.of_array(values)


@pytest.mark.parametrize("axis", [0, 1])
def test_values_that_differ_in_their_sign_alone_show_when_they_are_swapped(axis):
    """A sum of words times odd numbers would miss them: 2 ** 31 times an even one is 0."""
    values = np.ones((64, 64), np.float32)
    found = {checksums.of_array(values)}
    for place in range(64):
        changed = values.copy()
        changed[(place, 0) if axis == 0 else (0, place)] = -1
        found.add(checksums.of_array(changed))
    assert len(found) == 65


def test_the_mesh_changes_nothing():
    rng = np.random.default_rng(0)
    values = {
        "wide": rng.normal(size=(8, 16)).astype(np.float32),
        "deep": rng.normal(size=(16, 4, 2)).astype(ml_dtypes.bfloat16),
        "long": rng.integers(0, 99, 8, dtype=np.int32),
    }
    wanted = {name: checksums.of_array(value) for name, value in values.items()}
    for mesh in (MeshConfig(data=1), MeshConfig(fsdp=8), MeshConfig(data=2, fsdp=2, tensor=2)):
        placed = jax.device_put(values, sharding.batch(sharding.make_mesh(mesh)))
        assert checksums.on_devices(placed) == checksums.of(placed) == wanted
    assert checksums.on_host(values) == wanted


def test_blocks_of_the_host_are_one_array(monkeypatch):
    values = np.random.default_rng(1).normal(size=(50, 7)).astype(np.float32)
    whole = checksums.of_array(values)
    monkeypatch.setattr(checksums, "_BLOCK", 16)
    assert checksums.of_array(values) == whole


def test_the_numbers_stay_what_checkpoints_hold():
    """Another number for the same array would make every checkpoint look damaged."""
    assert checksums.of_array(np.arange(6, dtype=np.float32).reshape(2, 3)) == NUMBERS[0]
    assert checksums.of_array(np.ones(3, ml_dtypes.bfloat16)) == NUMBERS[1]
    assert checksums.word_sums({"a": jnp.ones(8, jnp.bfloat16)}) == {"a": 8 * 0x3F80}


NUMBERS = (1642309620, 3799159290)  # by plain Python integers, from the published constants
