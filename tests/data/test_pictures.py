"""Pictures whose size is known before their pixels are."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo

from esam_jax.config import SourceConfig
from esam_jax.data import decode, pictures, sources
from esam_jax.errors import DataError, DiskError

SIZE = (90, 61)  # of the stored picture, width first
EXIF = 0x0112


def save(path: Path, kind: str, turn: int = 1, mode: str = "RGB", **options: object) -> Path:
    coarse = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    image = Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC).convert(mode)
    exif = Image.Exif()
    if turn != 1:
        exif[EXIF] = turn
    image.save(path, kind, exif=exif, **options)
    return path


@pytest.fixture
def undecodable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding a pixel is an error."""

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(decode.simplejpeg, "decode_jpeg", refuse)
    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)


@pytest.mark.parametrize("orientation", ["upright", "stored"])
@pytest.mark.parametrize("turn", [1, 3, 6, 8])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_header_says_what_decoding_will_give(
    tmp_path: Path, kind: str, turn: int, orientation: str, request: pytest.FixtureRequest
):
    path = save(tmp_path / "picture", kind, turn)
    pixels = decode.decode_rgb(path.read_bytes(), orientation)
    request.getfixturevalue("undecodable")
    picture = pictures.read(path, orientation)
    assert (picture.height, picture.width) == pixels.shape[:2]
    turned = orientation == "upright" and turn >= 5
    assert (picture.width, picture.height) == (SIZE[::-1] if turned else SIZE)
    assert (picture.header.kind, picture.header.turn) == (
        kind,
        turn if orientation == "upright" else 1,
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_pixels_are_those_of_the_file(tmp_path: Path, kind: str):
    path = save(tmp_path / "picture", kind, turn=6)
    assert (pictures.read(path).rgb() == decode.read_rgb(path)).all()


def moved_behind_the_pixels(png: bytes, name: bytes) -> bytes:
    """The same chunks, the one of this name just before IEND."""
    chunks, at = [], 8
    while at < len(png):
        length = 12 + int.from_bytes(png[at : at + 4], "big")
        chunks.append(png[at : at + length])
        at += length
    late = [chunk for chunk in chunks if chunk[4:8] == name]
    assert late
    early = [chunk for chunk in chunks[:-1] if chunk[4:8] != name]
    return png[:8] + b"".join([*early, *late, chunks[-1]])


@pytest.mark.parametrize("kind", [b"eXIf", b"iTXt"])
def test_a_png_may_say_its_orientation_after_its_pixels(tmp_path: Path, kind: bytes):
    if kind == b"eXIf":
        path = save(tmp_path / "picture.png", "PNG", turn=6)
    else:
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
        path = save(tmp_path / "picture.png", "PNG", pnginfo=info)
    before = pictures.read(path)
    path.write_bytes(moved_behind_the_pixels(path.read_bytes(), kind))
    after = pictures.read(path)
    assert before.header == after.header
    assert (after.height, after.width) == after.rgb().shape[:2] == SIZE
    assert (after.rgb() == before.rgb()).all()


@pytest.mark.parametrize("turn", [1, 6])
def test_a_jpeg_can_be_decoded_at_a_fraction_of_its_size(tmp_path: Path, turn: int):
    picture = pictures.read(save(tmp_path / "picture.jpg", "JPEG", turn, quality=95))
    full = picture.rgb()
    height, width = picture.height // 3, picture.width // 4
    small = picture.rgb(at_least=(height, width))
    assert height <= small.shape[0] < picture.height and width <= small.shape[1] < picture.width
    expected = np.asarray(Image.fromarray(full).resize(small.shape[1::-1], Image.Resampling.BOX))
    assert np.abs(small.astype(int) - expected).mean() < 3
    assert (picture.rgb(at_least=(picture.height, 1)) == full).all()


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGB"), ("WEBP", "RGB"), ("JPEG", "CMYK")])
def test_other_files_are_decoded_in_full(tmp_path: Path, kind: str, mode: str):
    picture = pictures.read(save(tmp_path / "picture", kind, mode=mode))
    assert (picture.rgb(at_least=(2, 2)) == picture.rgb()).all()


def test_errors_name_the_file_at_either_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = save(tmp_path / "picture.png", "PNG")
    path.write_bytes(path.read_bytes()[:-200])
    picture = pictures.read(path)
    with pytest.raises(DataError, match=r"picture\.png: broken PNG picture"):
        picture.rgb()
    path.write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"picture\.png: not a JPEG"):
        pictures.read(path)

    def refuse(*args: object) -> None:
        raise DiskError(f"{path} cannot be read")

    monkeypatch.setattr(decode.files, "read", refuse)
    with pytest.raises(DiskError, match="cannot be read"):
        pictures.read(path)


@pytest.mark.parametrize("kind", ["image_folder", "coco", "sa1b"])
def test_every_source_reads_sixteen_bits_by_choice_and_notes_a_narrow_range(
    tmp_path: Path, kind: str
):
    values = np.arange(30, dtype=np.uint16).reshape(5, 6) * 100  # to 2900: 12 levels
    name = "sa_1.jpg" if kind == "sa1b" else "a.png"
    Image.fromarray(values).save(tmp_path / name, "PNG")
    objects = [{"image_id": 1, "segmentation": {"size": [5, 6], "counts": [0, 30]}}]
    images = [{"id": 1, "file_name": name, "height": 5, "width": 6}]
    content = json.dumps({"annotations": objects, "images": images})
    if kind != "image_folder":
        (tmp_path / ("sa_1.json" if kind == "sa1b" else "instances.json")).write_text(content)
    classes = {each.kind: each for each in get_args(SourceConfig)}
    for choice, highest in (("upper_byte", 11), ("stretch", 255)):
        config = classes[kind](path=str(tmp_path), sixteen_bit=choice)
        record = sources.open_source(config).read(0)
        assert record.picture.rgb().max() == highest
        noted = [f"{each.kind}: {each.text}" for each in record.findings]
        if choice == "stretch":
            assert noted == []
        else:
            (text,) = noted
            assert text.startswith("narrow_16_bit: ") and f"{name}: its 16-bit values" in text


def test_an_array_is_a_picture():
    picture = pictures.Pixels(np.zeros((3, 5, 3), np.uint8))
    assert isinstance(picture, pictures.Picture)
    assert (picture.height, picture.width) == (3, 5) and picture.rgb() is picture.array
