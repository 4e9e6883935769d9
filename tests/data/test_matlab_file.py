"""MATLAB files: what SciPy writes is read alike, and whatever is broken is refused."""

import io
import struct
import zlib
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import scipy.io
from helpers import drawn_sets
from hypothesis import given, settings
from hypothesis import strategies as some

from esam_jax.data import matlab_file
from esam_jax.errors import DataError

NUMBERS = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]


def written(value: Any, packed: bool) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, {"before": np.zeros(3), "x": value}, do_compression=packed)
    return file.getvalue()


@settings(max_examples=60, deadline=None)
@given(some.data(), some.sampled_from(NUMBERS), some.booleans())
def test_arrays_are_those_that_scipy_wrote(data: Any, dtype: str, packed: bool):
    shape = data.draw(arrays.array_shapes(min_dims=2, max_dims=4, min_side=0, max_side=5))
    array = data.draw(arrays.arrays(dtype, shape))
    found = matlab_file.read(written(array, packed), "x", 2**16)
    assert found.dtype == array.dtype and found.flags.c_contiguous
    np.testing.assert_array_equal(found, array)


def test_cells_and_structs():
    cells = np.empty((2, 2), object)
    cells[0, 0], cells[1, 0], cells[0, 1] = np.ones((1, 2)), {"a": np.eye(2), "bb": "text"}, "t"
    cells[1, 1] = np.zeros((0, 0))
    found = matlab_file.read(written(cells, True), "x", 2**16)
    assert len(found) == 4 and found[2] is None and found[3].size == 0
    np.testing.assert_array_equal(found[0], [[1, 1]])
    (struct_,) = found[1]
    np.testing.assert_array_equal(struct_["a"], np.eye(2))
    assert struct_["bb"] is None


def test_big_endian_files_are_read():
    """As `MI` of the format's head says; SciPy writes none."""
    body = b"".join(
        [
            struct.pack(">IIII", 6, 8, 9, 0),  # flags: uint8
            struct.pack(">IIii", 5, 8, 1, 3),  # sizes
            struct.pack(">HH4s", 1, 1, b"x"),  # a small element: the name
            struct.pack(">HH4s", 3, 2, bytes([1, 2, 3])),
        ]
    )
    data = bytes(124) + b"\x01\x00MI" + struct.pack(">II", 14, len(body)) + body
    np.testing.assert_array_equal(matlab_file.read(data, "x", 999), [[1, 2, 3]])


def head(order: bytes = b"IM") -> bytes:
    return bytes(124) + b"\x00\x01" + order


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(kind: int, sides: tuple[int, ...], *parts: bytes, flags: int = 0) -> bytes:
    about = element(6, struct.pack("<II", kind | flags, 0))
    about += element(5, struct.pack(f"<{len(sides)}i", *sides)) + element(1, b"x")
    return element(14, about + b"".join(parts))


def nested(depth: int) -> bytes:
    inner = matrix(9, (1, 1), element(2, b"1"))
    for _ in range(depth):
        inner = matrix(1, (1, 1), inner)
    return inner


BROKEN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not a MATLAB file"),
    "text": (b"no head at all" * 20, "not a MATLAB file"),
    "HDF5": (b"MATLAB 7.3 MAT-file" + head()[19:], "7.3 file"),
    "no variable": (head(), "no variable 'x'"),
    "a cut tag": (head() + b"123", "ends within a tag"),
    "a cut element": (head() + struct.pack("<II", 14, 2**32 - 1), "is cut off"),
    "a large small element": (head() + struct.pack("<HH4s", 14, 9, b""), "small element of 9"),
    "a cut array": (head() + element(14, element(6, bytes(8))), "without class, sizes or name"),
    "no sizes": (head() + matrix(9, ()), "of the size"),
    "a negative size": (head() + matrix(9, (-1, 1), element(2, b"1")), r"of the size \(-1, 1\)"),
    "a huge array": (head() + matrix(9, (2**31 - 1,) * 4, element(2, b"1")), "has 1 bytes"),
    "an array of another size": (head() + matrix(9, (2, 1), element(2, b"1")), "has 1 bytes"),
    "an unknown type": (head() + matrix(9, (1, 1), element(77, b"1")), "not of plain numbers"),
    "no numbers": (head() + matrix(9, (1, 1)), "not of plain numbers"),
    "complex": (head() + matrix(9, (1, 1), element(2, b"1"), flags=0x800), "not of plain numbers"),
    "a huge cell array": (head() + matrix(1, (2**31 - 1, 2**31 - 1)), "of which 0 are there"),
    "many cells": (head() + matrix(1, (1, 1001), element(14, b"") * 1001), "at most 1000"),
    "a cell that is none": (head() + matrix(1, (1, 1), element(2, b"1")), "part of an array"),
    "deep": (head() + nested(9), "nested deeper than 8"),
    "a struct without fields": (head() + matrix(2, (1, 1)), "without names of fields"),
    "no length of names": (
        head() + matrix(2, (1, 1), element(5, bytes(4)), element(1, b"ab")),
        "broken names of fields",
    ),
    "not packed": (head() + element(15, b"no zlib"), "broken MATLAB file"),
    "packed and cut": (
        head() + element(15, zlib.compress(nested(1) * 9)[:-9]),
        "broken MATLAB file",
    ),
    "a bomb": (head() + element(15, zlib.compress(bytes(10**6))), "larger than 65536 bytes once"),
    "large": (head() + matrix(9, (1, 70_000), element(2, bytes(70_000))), "larger than 65536"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_refused(case: str):
    data, message = BROKEN[case]
    with pytest.raises(DataError, match=message):
        matlab_file.read(data, "x", 2**16)


@pytest.mark.parametrize("packed", [True, False])
def test_a_damaged_file_gives_an_error_or_arrays(packed: bool):
    """Among such files are some that end a process which reads them with SciPy 1.17.1."""
    genuine = drawn_sets.matlab(*drawn_sets.drawn_by_people(2), packed=packed)
    rng = np.random.default_rng(7)
    refused = 0
    for _ in range(1500):
        data = bytearray(genuine)
        for at in rng.integers(120, len(data), rng.integers(1, 4)):
            data[at] = rng.integers(256)
        if rng.random() < 0.2:
            del data[rng.integers(len(data)) :]
        try:
            found = matlab_file.read(bytes(data), "groundTruth", 2**20)
        except DataError:
            refused += 1
            continue
        assert found is None or isinstance(found, list | np.ndarray)
    assert 400 < refused < 1500
