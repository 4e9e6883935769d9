"""Maps of numbers: the values are those that are stored, or the map is refused."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers import drawn_sets
from hypothesis import given
from hypothesis import strategies as some
from PIL import Image

from esam_jax.data import decode
from esam_jax.errors import DataError


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(head: bytes, rows: bytes) -> bytes:
    """A PNG of its parts (PNG, W3C, section 5.3)."""
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def grey(depth: int, values: np.ndarray) -> bytes:
    """A grey PNG of 1, 2, 4, 8 or 16 bits a pixel (section 7.2)."""
    places = np.arange(depth - 1, -1, -1)
    rows = [np.packbits(row[:, None] >> places & 1).tobytes() for row in values]
    height, width = values.shape
    head = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return png(head, b"".join(b"\0" + row for row in rows))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_grey_values_are_those_stored(tmp_path: Path, depth: int):
    """Pillow multiplies those of 2 and 4 bits, so that the highest is white."""
    values = np.random.default_rng(depth).integers(0, 2**depth, (6, 16))
    values[0, :2] = 0, 2**depth - 1
    (tmp_path / "a.png").write_bytes(grey(depth, values))
    np.testing.assert_array_equal(decode.read_numbers(tmp_path / "a.png"), values)


def test_palette_values_are_indices(tmp_path: Path):
    values = np.arange(240, dtype=np.uint8).reshape(12, 20)
    drawn_sets.png(tmp_path / "a.png", values, palette=True)
    np.testing.assert_array_equal(decode.read_numbers(tmp_path / "a.png"), values)


@given(some.integers(0, 2**24 - 1))
def test_colours_are_the_bytes_of_a_number(tmp_path_factory, number: int):
    path = tmp_path_factory.mktemp("numbers") / "a.png"
    Image.new("RGB", (3, 2), (number % 256, number // 256 % 256, number // 65536)).save(path)
    found = decode.read_coloured_numbers(path)
    assert found.shape == (2, 3) and (found == number).all()


@pytest.mark.parametrize("read", [decode.read_numbers, decode.read_coloured_numbers])
def test_a_jpeg_has_no_numbers(tmp_path: Path, read):
    for mode, name in (("L", "grey.png"), ("RGB", "colours.png")):
        Image.new(mode, (9, 9)).save(tmp_path / name, "JPEG")
        with pytest.raises(DataError, match=rf"{name}: it is a JPEG, which does not keep numbers"):
            read(tmp_path / name)


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16", "RGBA", "LA"])
def test_what_has_no_three_colours_is_refused(tmp_path: Path, mode: str):
    Image.new(mode, (9, 9)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: its pixels are .*, but a panoptic map is RGB"):
        decode.read_coloured_numbers(tmp_path / "a.png")


def test_colours_of_16_bits_are_refused(tmp_path: Path):
    """Pillow drops their lower bytes."""
    head = struct.pack(">IIBBBBB", 3, 2, 16, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(png(head, bytes(2 * (1 + 3 * 6))))
    with pytest.raises(DataError, match="its pixels are RGB of 16 bits"):
        decode.read_coloured_numbers(tmp_path / "a.png")
