"""Every kind of picture file becomes RGB, or is refused with a reason."""

import io
import struct
import zlib
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image, ImageOps

from esam_jax.data import decode
from esam_jax.errors import DataError, MissingError

PIXELS = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)).resize((23, 14))
)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_lossless_files_give_their_pixels(kind: str, options: dict):
    assert (decode.decode_rgb(encode(Image.fromarray(PIXELS), kind, **options)) == PIXELS).all()


def test_jpeg_agrees_with_pillow():
    data = encode(Image.fromarray(PIXELS), "JPEG", quality=95, subsampling=0)
    theirs = np.asarray(Image.open(io.BytesIO(data)))
    assert np.abs(decode.decode_rgb(data).astype(int) - theirs).max() <= 2  # two DCT versions


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_other_colour_modes_become_rgb(mode: str):
    image = Image.fromarray(PIXELS).convert(mode)
    rgb = decode.decode_rgb(encode(image, "JPEG" if mode == "CMYK" else "PNG"))
    assert rgb.shape == PIXELS.shape and rgb.dtype == np.uint8
    if mode in ("RGBA", "CMYK"):
        assert np.abs(rgb.astype(int) - PIXELS).mean() < 5
    if mode in ("L", "LA"):
        assert (rgb == np.asarray(Image.fromarray(PIXELS).convert("L"))[..., None]).all()


def test_grey_jpeg_and_transparent_palette():
    assert decode.decode_rgb(encode(Image.fromarray(PIXELS).convert("L"), "JPEG")).shape[2] == 3
    palette = Image.fromarray(PIXELS).convert("P")
    assert decode.decode_rgb(encode(palette, "PNG", transparency=b"\x00\x80\xff")).shape[2] == 3


def test_sixteen_bits_keep_their_upper_half():
    values = np.arange(14 * 23, dtype=np.uint16).reshape(14, 23) * 200
    rgb = decode.decode_rgb(encode(Image.fromarray(values), "PNG"))
    assert (rgb == (values >> 8)[..., None]).all()


NARROW = {
    # values, levels of grey that the upper byte keeps
    "8-bit numbers in 16 bits": (np.arange(14 * 23) % 256, 1),
    "a camera of 12 bits": (np.arange(14 * 23) * 12, 16),
    "a camera of 11 bits": (np.arange(14 * 23) * 6, 8),
    "a camera of 14 bits": (np.arange(14 * 23) * 50, 63),
    "a narrow range high up": (np.arange(14 * 23) + 40_000, 2),
    "a dark picture": (np.arange(14 * 23) * 52, 66),
    "the full range": (np.arange(14 * 23) * 200, 251),
}


@pytest.mark.parametrize("case", NARROW)
def test_sixteen_bits_of_a_narrow_range_are_noticed_and_can_be_stretched(case: str):
    values, levels = NARROW[case]
    values = values.astype(np.uint16).reshape(14, 23)
    data, said = encode(Image.fromarray(values), "PNG"), []
    assert len(np.unique(values >> 8)) == levels
    rgb = decode.decode_rgb(data, notice=lambda _, text: said.append(text))
    assert (rgb == (values >> 8)[..., None]).all()
    assert len(said) == (levels <= 64)
    if said:
        low, high = values.min(), values.max()
        assert said[0].startswith(f"its 16-bit values from {low} to {high} become {levels} of 256")
    said.clear()
    stretched = decode.decode_rgb(
        data, sixteen_bit="stretch", notice=lambda _, text: said.append(text)
    )
    exact = (values - float(values.min())) / float(np.ptp(values)) * 255
    assert np.abs(stretched - exact[..., None]).max() <= 0.5 and said == []


@pytest.mark.parametrize("value", [0, 200, 40_000])
def test_sixteen_bits_of_one_value_are_what_they_are(value: int):
    data, said = encode(Image.fromarray(np.full((4, 5), value, np.uint16)), "PNG"), []
    for sixteen_bit in ("upper_byte", "stretch"):
        rgb = decode.decode_rgb(
            data, sixteen_bit=sixteen_bit, notice=lambda _, text: said.append(text)
        )
        assert (rgb == value >> 8).all()
    assert said == []


@pytest.mark.parametrize(("factor", "levels"), [(257, 256), (1, 1)])
def test_colours_of_sixteen_bits_lose_their_lower_bytes_with_a_word(factor: int, levels: int):
    """Pillow reads them so, which cannot be undone."""
    values = (PIXELS.astype(np.uint16) * factor).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    png = b"\x89PNG\r\n\x1a\n"
    for name, data in (
        (b"IHDR", struct.pack(">IIBBBBB", 23, 14, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        png += struct.pack(">I", len(data)) + name + data
        png += struct.pack(">I", zlib.crc32(name + data))
    said = []
    rgb = decode.decode_rgb(png, sixteen_bit="stretch", notice=lambda _, text: said.append(text))
    assert (rgb == (values.astype(int) >> 8)).all()
    told = [f"the upper bytes of its 16-bit colours have {levels} levels: make it 8-bit first"]
    assert said == ([] if factor == 257 else told)


def test_a_file_of_a_narrow_range_warns_by_name(tmp_path: Path):
    path = tmp_path / "x.png"
    Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4)).save(path)
    with pytest.warns(UserWarning, match=r"x\.png: its 16-bit values from 0 to 11 become 1 of 256"):
        decode.read_rgb(path)
    assert decode.read_rgb(path, "stretch").max() == 255


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
@pytest.mark.parametrize("frames", [1, 3])
def test_an_animation_gives_its_first_frame_and_says_so(kind: str, frames: int):
    more = [Image.fromarray(255 - PIXELS), Image.fromarray(PIXELS[::-1])][: frames - 1]
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = Image.fromarray(PIXELS)
    data = encode(picture, kind, save_all=True, append_images=more, **options)
    said = []
    rgb = decode.decode_rgb(data, notice=lambda *noted: said.append(noted))
    assert (rgb == PIXELS).all()
    assert said == ([("animations", "the first of its 3 frames is read")] if frames > 1 else [])


def test_every_ending_of_the_formats_that_are_read_is_a_picture():
    Image.init()
    known = {ending for ending, kind in Image.EXTENSION.items() if kind in get_args(decode.Format)}
    assert known == set(decode.SUFFIXES)


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_turns_the_picture_upright(turn: int):
    exif = Image.Exif()
    exif[0x0112] = turn
    data = encode(Image.fromarray(PIXELS), "PNG", exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert (decode.decode_rgb(data) == upright).all()
    assert (decode.decode_rgb(data, orientation="stored") == PIXELS).all()


@pytest.mark.parametrize("size", [(1, 1), (300, 1)])
def test_tiny_and_thin_pictures(size: tuple[int, int]):
    assert decode.decode_rgb(encode(Image.new("RGB", size), "JPEG")).shape == (*size[::-1], 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_file_cut_short_is_never_half_a_picture(kind: str):
    data = encode(Image.fromarray(PIXELS), kind)
    whole = decode.decode_rgb(data)
    for length in range(len(data)):
        try:
            picture = decode.decode_rgb(data[:length])
        except DataError:
            continue
        # What PNG has after its last pixel may be lost without harm.
        assert kind == "PNG" and length > len(data) - 24 and (picture == whole).all()


def test_other_content_is_named_whatever_the_file_is_called(tmp_path: Path):
    page = tmp_path / "page.jpg"
    page.write_bytes(b"<html>404</html>")
    with pytest.raises(DataError, match=r"page\.jpg.*not a JPEG, PNG or WebP"):
        decode.read_rgb(page)
    picture = tmp_path / "picture.txt"
    picture.write_bytes(encode(Image.fromarray(PIXELS), "PNG"))
    assert (decode.read_rgb(picture) == PIXELS).all()
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.png: the file is empty \(0 bytes\): fetch it"):
        decode.read_rgb(tmp_path / "empty.png")
    with pytest.raises(MissingError, match="absent"):
        decode.read_rgb(tmp_path / "absent.png")
    with pytest.raises(MissingError, match="cannot be read"):
        decode.read_rgb(tmp_path)


@pytest.mark.parametrize("size", [(30_000, 30_000), (20_000, 10), (9_000, 9_000), (11_000, 11_000)])
def test_a_huge_header_is_refused_before_decoding(size: tuple[int, int]):
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    png = (
        b"\x89PNG\r\n\x1a\n"
        + header
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(DataError, match="pixels"):
        decode.decode_rgb(png)
