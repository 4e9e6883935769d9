"""Arrays of MATLAB files (level 5, .mat) from outside.

`scipy.io.loadmat` is not for hostile files. With SciPy 1.17.1, 184 bytes ask it for 32 GiB (65536 x
65536 cells, none of which is there), and a few changed bytes end the process with a segmentation
fault. Here every size is compared with the bytes that are there before there is room for anything.

Source: MAT-File Format (MathWorks, R2023b), "Level 5 MAT-File Format".
"""

import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from esam_jax.errors import DataError

_HEAD = 128
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15  # types of elements
_NUMBERS: Mapping[int, str] = {
    **{1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4"},
    **{7: "f4", 9: "f8", 12: "i8", 13: "u8"},
}
_CELL, _STRUCT, _ARRAYS = 1, 2, range(6, 16)  # classes of matrices
_COMPLEX = 0x0800
_MOST_PARTS = 1000  # cells of an array, or fields of its structs
_DEEPEST = 8

_Element = tuple[int, bytes]  # type and content


def read(data: bytes, variable: str, max_bytes: int) -> Any:
    """The variable of this name: numbers as stored, cells as a list, structs as a list of dicts.

    Lists are in MATLAB's order. Text, objects and sparse matrices are None. DataError for a file of
    another version, for a broken one, and for more than `max_bytes` once unpacked.
    """
    if data.startswith(b"\x89HDF") or b"MATLAB 7.3" in data[:32]:
        raise DataError("it is a MATLAB 7.3 file (HDF5): save it with -v7")
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise DataError("it is not a MATLAB file of level 5 (.mat)")
    for kind, content in _unpacked(data, order, max_bytes):
        if kind == _MATRIX:
            name, value = _matrix(content, order, 1)
            if name == variable:
                return value
    raise DataError(f"it has no variable {variable!r}")


def _unpacked(data: bytes, order: str, max_bytes: int) -> Iterator[_Element]:
    """The elements, unpacked; together at most `max_bytes`."""
    left = max_bytes
    for kind, content in _elements(data[_HEAD:], order):
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            try:
                content = unpacker.decompress(content, left + 1)
            except zlib.error as error:
                raise _broken(str(error)) from error
            if len(content) <= left and not unpacker.eof:
                raise _broken("packed bytes end early")
        left -= len(content)
        if left < 0:
            raise DataError(f"it is larger than {max_bytes} bytes once it is unpacked")
        yield from _elements(content, order) if kind == _COMPRESSED else [(kind, content)]


def _elements(data: bytes, order: str) -> Iterator[_Element]:
    """Each element of a sequence; DataError for a size that is not there."""
    at = 0
    while at < len(data):
        if at + 8 > len(data):
            raise _broken("it ends within a tag")
        kind, size = struct.unpack_from(order + "II", data, at)
        start = at + 8
        if kind >> 16:  # a small element: size and type in four bytes, content in the other four
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
            if size > 4:
                raise _broken(f"a small element of {size} bytes")
        if start + size > len(data):
            raise _broken(f"an element of {size} bytes is cut off")
        yield kind, data[start : start + size]
        # Elements are aligned to eight bytes, but for packed ones.
        at = start + size + (0 if kind == _COMPRESSED else -(start + size - at) % 8)


def _matrix(content: bytes, order: str, depth: int) -> tuple[str, Any]:
    """Name and value of a matrix."""
    if depth > _DEEPEST:
        raise DataError(f"its arrays are nested deeper than {_DEEPEST}")
    if not content:
        return "", None  # as MATLAB writes a cell without content
    parts = list(_elements(content, order))
    kinds = [kind for kind, _ in parts[:3]]
    if kinds != [_UINT32, _INT32, _INT8] or len(parts[0][1]) != 8 or len(parts[1][1]) % 4:
        raise _broken("an array without class, sizes or name")
    (flags,) = struct.unpack_from(order + "I", parts[0][1])
    sides = struct.unpack(f"{order}{len(parts[1][1]) // 4}i", parts[1][1])
    if not 2 <= len(sides) <= 32 or min(sides) < 0:
        raise _broken(f"an array of the size {str(sides)[:80]}")
    name = parts[2][1].decode("latin-1")
    if flags & 0xFF in _ARRAYS:
        return name, _numbers(parts[3:], sides, bool(flags & _COMPLEX), order)
    if flags & 0xFF == _CELL:
        return name, _all(parts[3:], math.prod(sides), order, depth)
    if flags & 0xFF == _STRUCT:
        return name, _structs(parts[3:], math.prod(sides), order, depth)
    return name, None


def _numbers(
    parts: Sequence[_Element], sides: tuple[int, ...], is_complex: bool, order: str
) -> np.ndarray:
    if is_complex or len(parts) != 1 or parts[0][0] not in _NUMBERS:
        raise DataError("it has an array that is not of plain numbers")
    dtype = np.dtype(order + _NUMBERS[parts[0][0]])
    if math.prod(sides) * dtype.itemsize != len(parts[0][1]):
        raise _broken(f"an array of the size {sides} has {len(parts[0][1])} bytes")
    array = np.frombuffer(parts[0][1], dtype).reshape(sides, order="F")
    return np.ascontiguousarray(array, dtype.newbyteorder("="))


def _structs(parts: Sequence[_Element], count: int, order: str, depth: int) -> list[dict[str, Any]]:
    if len(parts) < 2 or parts[0][0] != _INT32 or len(parts[0][1]) != 4:
        raise _broken("a struct without names of fields")
    (length,) = struct.unpack(order + "i", parts[0][1])
    text = parts[1][1]
    if length < 1 or len(text) % length:
        raise _broken("a struct with broken names of fields")
    starts = range(0, len(text), length)
    names = [text[i : i + length].split(b"\0")[0].decode("latin-1") for i in starts]
    values = _all(parts[2:], count * len(names), order, depth)
    return [
        dict(zip(names, values[i * len(names) : (i + 1) * len(names)], strict=True))
        for i in range(count)
    ]


def _all(parts: Sequence[_Element], count: int, order: str, depth: int) -> list[Any]:
    """The values of the matrices in a matrix, which must be `count`."""
    if len(parts) != count or count > _MOST_PARTS:
        raise DataError(
            f"it has an array of {count} parts, of which {len(parts)} are there; at most "
            f"{_MOST_PARTS} are read"
        )
    if any(kind != _MATRIX for kind, _ in parts):
        raise _broken("a part of an array that is none")
    return [_matrix(content, order, depth + 1)[1] for _, content in parts]


def _broken(what: str) -> DataError:
    return DataError(f"broken MATLAB file ({what}): fetch it again")
