"""Every kind of picture through the commands: right and upright masks, or an error by name."""

import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import nano, whole
from PIL import Image

import esam_jax
from esam_jax import cli
from esam_jax.config import Sa1bConfig
from esam_jax.convert import model_folder
from esam_jax.data import decode, sources
from esam_jax.models import named
from esam_jax.ops import regions

HEIGHT, WIDTH = 24, 40
# Few colours in large patches, so that a palette holds them and CMYK brings them back.
PATCHES = np.random.default_rng(3).integers(0, 2, (3, 5, 3), np.uint8) * 255
PIXELS = PATCHES.repeat(8, 0).repeat(8, 1)
GREY = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH) * 68  # to 65280


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def with_alpha() -> bytes:
    """Half of it invisible: the colours count, not the transparency."""
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    alpha[:, :20] = 0
    return encode(Image.fromarray(np.concatenate([PIXELS, alpha], axis=2)))


def turned(turn: int, kind: str = "PNG") -> bytes:
    """Stored so that the tag brings it back to PIXELS."""
    operation = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # undone by turning it clockwise
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(turn)
    image, exif = Image.fromarray(PIXELS), Image.Exif()
    exif[0x0112] = turn
    options = {"lossless": True} if kind == "WEBP" else {}
    stored = image if operation is None else image.transpose(operation)
    return encode(stored, kind, exif=exif, **options)


def animated(kind: str) -> bytes:
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    options = {"lossless": True} if kind == "WEBP" else {}
    return encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)


def chunk(name: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + check


def png(width: int, height: int, *chunks: bytes, bits: int = 8, colour: int = 0) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def colour_png_of_16_bits(pixels: np.ndarray) -> bytes:
    """Pillow writes none; each colour is its byte twice."""
    rows = pixels.repeat(2, axis=2).reshape(HEIGHT, -1)
    data = zlib.compress(np.insert(rows, 0, 0, axis=1).tobytes())
    return png(WIDTH, HEIGHT, chunk(b"IDAT", data), bits=16, colour=2)


def grey(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L").convert("RGB"))


PLAIN = Image.fromarray(PIXELS)
# Files, and the upright colours that they hold; PIXELS where that is None.
GOOD: dict[str, tuple[Callable[[], bytes], np.ndarray | None]] = {
    "grey": (lambda: encode(PLAIN.convert("L")), grey(PLAIN)),
    "grey with alpha": (lambda: encode(PLAIN.convert("LA")), grey(PLAIN)),
    "one bit": (
        lambda: encode(PLAIN.convert("1", dither=Image.Dither.NONE)),
        np.asarray(PLAIN.convert("1", dither=Image.Dither.NONE).convert("RGB")),
    ),
    "16 bits": (
        lambda: encode(Image.fromarray(GREY)),
        (GREY >> 8).astype(np.uint8)[..., None].repeat(3, axis=2),
    ),
    "16 bits, colour": (lambda: colour_png_of_16_bits(PIXELS), None),
    "palette": (lambda: encode(PLAIN.convert("P", palette=Image.Palette.ADAPTIVE)), None),
    "palette with alpha": (
        lambda: encode(PLAIN.convert("P", palette=Image.Palette.ADAPTIVE), transparency=0),
        None,
    ),
    "alpha": (with_alpha, None),
    "CMYK": (lambda: encode(PLAIN.convert("CMYK"), "JPEG", quality=100, subsampling=0), None),
    "animated PNG": (lambda: animated("PNG"), None),
    "animated WebP": (lambda: animated("WEBP"), None),
    **{f"EXIF {turn}": (lambda turn=turn: turned(turn), None) for turn in range(1, 9)},
    "EXIF 6, WebP": (lambda: turned(6, "WEBP"), None),
    "EXIF of no meaning": (lambda: turned(77), None),
}
EXACT = {name for name in GOOD if name != "CMYK"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = named.sam("sam_nano")
    folder = tmp_path_factory.mktemp("models") / "sam_nano"
    model_folder.write(folder, config, nano.params(config), source="a test")
    return str(folder)


def segment(picture: Path, out: Path, model: str, *more: str) -> int:
    return cli.main(["segment", str(picture), "--model", model, "--out", str(out), *more])


ASKED = ("--point", "9,12", "--box", f"2,3,{WIDTH - 1},20")


@pytest.fixture(scope="module")
def masks_of_plain(model: str, tmp_path_factory: pytest.TempPathFactory) -> Callable:
    def answer(pixels: np.ndarray) -> list[dict]:
        folder = tmp_path_factory.mktemp("plain")
        Image.fromarray(pixels).save(folder / "a.png")
        assert segment(folder / "a.png", folder / "out", model, *ASKED) == 0
        return json.loads((folder / "out" / "masks.json").read_text())["masks"]

    return answer


@pytest.mark.filterwarnings("ignore:.*the first of its 2 frames")
@pytest.mark.parametrize("case", GOOD)
def test_f29_every_kind_of_picture_gives_the_masks_of_its_upright_colours(
    case: str, model: str, masks_of_plain: Callable, tmp_path: Path
):
    make, colours = GOOD[case]
    colours = PIXELS if colours is None else colours
    (tmp_path / "a.png").write_bytes(make())
    rgb = decode.read_rgb(tmp_path / "a.png")
    assert rgb.dtype == np.uint8 and rgb.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(rgb.astype(int) - colours).max() <= (0 if case in EXACT else 3)
    assert segment(tmp_path / "a.png", tmp_path / "out", model, *ASKED) == 0
    report = json.loads((tmp_path / "out" / "masks.json").read_text())
    assert report["size"] == [HEIGHT, WIDTH]
    for got, wanted in zip(report["masks"], masks_of_plain(rgb), strict=True):
        assert got["segmentation"] == wanted["segmentation"] and got["bbox"] == wanted["bbox"]
        mask = np.asarray(Image.open(tmp_path / "out" / got["file"])) > 0
        np.testing.assert_array_equal(mask, regions.from_rle(got["segmentation"]))


LOOSE = ("--points-per-side", "2", "--pred-iou-thresh", "-9", "--stability-score-thresh", "0.01")


@pytest.mark.filterwarnings("ignore:.*the first of its 2 frames")
def test_f29_masks_of_everything_lie_on_the_upright_picture(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    """What is stored for training is upright too, whatever the tag of the picture was."""
    first = jax.local_devices()[:1]  # each pretend device would compile anew
    monkeypatch.setattr(jax, "local_devices", lambda: first)
    (tmp_path / "album").mkdir()
    for name, (make, _) in GOOD.items():
        (tmp_path / "album" / f"{name}.png").write_bytes(make())
    out = tmp_path / "out"
    argv = ["everything", str(tmp_path / "album"), "--model", model, "--out", str(out), *LOOSE]
    assert cli.main(argv) == 0
    said = "warning: 2 animations, the first: animated PNG.png: the first of its 2 frames is read"
    assert capsys.readouterr().err.count(said) == 1
    source = sources.open_source(Sa1bConfig(path=str(out)))
    assert len(source) == len(GOOD)
    found = {}
    for i in range(len(source)):
        record = source.read(i)
        content = json.loads((out / source.name(i)).with_suffix(".json").read_text())
        case = Path(content["image"]["source"]).stem
        masks = whole.masks(record)
        assert record.picture.rgb().shape == (HEIGHT, WIDTH, 3) and len(masks) > 0
        given = decode.read_rgb(tmp_path / "album" / f"{case}.png")
        assert np.abs(record.picture.rgb().astype(int) - given).mean() < 20  # a JPEG of sharp edges
        found[case] = [each["segmentation"] for each in content["annotations"]]
    for turn in range(1, 9):
        assert found[f"EXIF {turn}"] == found["alpha"]


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (10, 16384)])
def test_f29_tiny_and_thin_pictures_have_masks_of_their_size(
    size: tuple[int, int], model: str, tmp_path: Path
):
    height, width = size
    Image.fromarray(nano.picture(height, width)).save(tmp_path / "a.png")
    box = ("--box", f"0,0,{width},{height}")
    assert segment(tmp_path / "a.png", tmp_path / "out", model, "--point", "0,0", *box) == 0
    report = json.loads((tmp_path / "out" / "masks.json").read_text())
    assert report["size"] == [height, width]
    for entry in report["masks"]:
        assert regions.from_rle(entry["segmentation"]).shape == (height, width)
    argv = ["everything", str(tmp_path / "a.png"), "--model", model, *LOOSE]
    assert cli.main([*argv, "--out", str(tmp_path / "all")]) == 0
    record = sources.open_source(Sa1bConfig(path=str(tmp_path / "all"))).read(0)
    assert record.picture.rgb().shape == (height, width, 3)
    assert whole.masks(record).shape == (len(record.annotation("masks")), height, width)


def test_f29_an_array_may_be_longer_than_a_file_may():
    sam, picture = nano.sam("sam_nano"), nano.picture(10, 20_000)
    masks = sam.decode(sam.encode(picture), [esam_jax.Prompt(points=[[19_999, 9]])])
    assert masks.binary().shape == (1, 3, 10, 20_000)


BAD = {
    "20000 x 10": (lambda: encode(Image.new("L", (20_000, 10))), "the picture is 20000 x 10"),
    "cut JPEG": (lambda: encode(PLAIN, "JPEG")[:-200], "broken JPEG picture"),
    "cut PNG": (lambda: encode(PLAIN)[:90], "broken PNG picture"),
    "cut WebP": (lambda: encode(PLAIN, "WEBP")[:-20], "broken WEBP picture"),
    "GIF": (lambda: animated("GIF"), "not a JPEG, PNG or WebP picture"),
    "TIFF": (lambda: encode(PLAIN, "TIFF"), "not a JPEG, PNG or WebP picture"),
    "BMP": (lambda: encode(PLAIN, "BMP"), "not a JPEG, PNG or WebP picture"),
    "empty": (lambda: b"", "the file is empty (0 bytes)"),
    "no size": (lambda: encode(PLAIN).replace(b"\0\0\0\x18\x08", b"\0\0\0\0\x08"), "broken PNG"),
}


@pytest.mark.parametrize("case", BAD)
def test_f29_what_cannot_be_read_is_refused_by_name(case: str, model: str, tmp_path: Path, capsys):
    make, message = BAD[case]
    picture = tmp_path / "a.jpg"
    picture.write_bytes(make())
    for argv in (
        ["segment", str(picture), "--point", "3,4"],
        ["segment", str(picture), "--mask", str(picture)],
        ["everything", str(picture)],
    ):
        assert cli.main([*argv, "--model", model, "--out", str(tmp_path / "out")]) == 2
        err = capsys.readouterr().err
        assert "a.jpg" in err and message in err
        assert "defect" not in err and "Traceback" not in err
    assert not list(tmp_path.glob("out/sa_*"))


def test_a_mask_of_16_bits_counts_however_dark_it_is(model: str, tmp_path: Path):
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[4:15, 6:30] = True
    for name, values in {
        "dark": inside.astype(np.uint16),
        "bright": inside * np.uint8(255),
    }.items():
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    PLAIN.save(tmp_path / "a.png")
    answers = []
    for name in ("dark", "bright"):
        mask = ("--mask", str(tmp_path / f"{name}.png"))
        assert segment(tmp_path / "a.png", tmp_path / name, model, *mask) == 0
        report = json.loads((tmp_path / name / "masks.json").read_text())
        answers.append(report["masks"][0]["segmentation"])
    assert answers[0] == answers[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("always::UserWarning")
def test_a_narrow_range_of_16_bits_is_warned_of_and_stretched_by_choice(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    """The same brightness in 12 bits and in 8 gives the same masks once it is stretched."""
    grey = np.asarray(PLAIN.convert("L")).astype(np.uint16)
    full = (grey - grey.min()) * (255 / np.ptp(grey))
    (tmp_path / "album").mkdir()
    for name in ("a", "b"):
        Image.fromarray(grey * np.uint16(16)).save(tmp_path / "album" / f"{name}.png")
    Image.fromarray(np.rint(full).astype(np.uint8)).save(tmp_path / "full.png")
    out, point = tmp_path / "out", ("--point", "20,20")
    narrow = tmp_path / "album" / "a.png"
    assert segment(narrow, out / "dark", model, *point) == 0
    warned = capsys.readouterr().err
    assert "a.png: its 16-bit values from" in warned and "--sixteen-bit stretch spreads" in warned
    assert segment(narrow, out / "stretched", model, *point, "--sixteen-bit", "stretch") == 0
    assert segment(tmp_path / "full.png", out / "full", model, *point) == 0
    assert capsys.readouterr().err == ""
    masks = {
        name: json.loads((out / name / "masks.json").read_text())["masks"][0]["segmentation"]
        for name in ("dark", "stretched", "full")
    }
    assert masks["stretched"] == masks["full"] != masks["dark"]

    argv = ["everything", str(tmp_path / "album"), "--model", model, "--out", str(out / "all")]
    assert cli.main([*argv, *LOOSE]) == 0
    assert "2 narrow 16-bit pictures, the first: a.png: its 16-bit" in capsys.readouterr().err
    assert cli.main([*argv, *LOOSE, "--sixteen-bit", "stretch"]) == 2
    assert "sixteen_bit was None, is 'stretch'" in capsys.readouterr().err
    argv[-1] = str(out / "stretched_all")
    assert cli.main([*argv, *LOOSE, "--sixteen-bit", "stretch"]) == 0
    assert "narrow" not in capsys.readouterr().err
    record = sources.open_source(Sa1bConfig(path=str(out / "stretched_all"))).read(0)
    assert record.picture.rgb().min() < 8 and record.picture.rgb().max() > 247


def test_a_mask_that_covers_nothing_is_refused(model: str, tmp_path: Path, capsys):
    PLAIN.save(tmp_path / "a.png")
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "mask.png")
    mask = ("--mask", str(tmp_path / "mask.png"))
    assert segment(tmp_path / "a.png", tmp_path / "out", model, *mask) == 2
    assert "mask.png is black everywhere" in capsys.readouterr().err


# -------------------------------------------------------------------------------------- bombs


def zeros(count: int) -> bytes:
    return zlib.compress(bytes(count), 9)


def webp(width: int, height: int, *, canvas: bool) -> bytes:
    """A lossless picture, or an animation of nothing on a canvas of that size."""
    if canvas:
        sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
        name, data = b"VP8X", b"\x02\0\0\0" + sides
    else:
        name, data = b"VP8L", b"\x2f" + struct.pack("<I", width - 1 | height - 1 << 14) + bytes(41)
    body = b"WEBP" + name + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg(width: int, height: int) -> bytes:
    data = bytearray(encode(PLAIN, "JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def archive(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A compressed tar with one member of zeros."""
    member, buffer = tarfile.TarInfo(name), io.BytesIO()
    member.size, member.type = size, kind
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        packed.addfile(member, io.BytesIO(bytes(size)))
    return buffer.getvalue()


LARGE = 100 * 2**20  # twice as much as may be taken
BOMBS = {
    "a.png": (lambda: png(30_000, 30_000, chunk(b"IDAT", zeros(10**6))), "30000 x 30000"),
    "b.png": (lambda: png(9_000, 9_000, chunk(b"IDAT", zeros(81 * 10**6))), "9000 x 9000"),
    "text.png": (lambda: png(9, 9, chunk(b"zTXt", b"a\0\0" + zeros(LARGE))), "too large"),
    "profile.png": (lambda: png(9, 9, chunk(b"iCCP", b"a\0\0" + zeros(LARGE))), "too large"),
    "a.webp": (lambda: webp(16_383, 16_383, canvas=False), "16383 x 16383"),
    "b.webp": (lambda: webp(12_000, 12_000, canvas=True), "12000 x 12000"),
    "a.jpg": (lambda: jpeg(65_500, 65_500), "65500 x 65500"),
    "a.tar": (lambda: archive("a.png", LARGE), "not a JPEG, PNG or WebP"),
    "b.tar": (lambda: archive("a.png", LARGE, tarfile.GNUTYPE_LONGNAME), "a header of"),
}
SCRIPT = """
import re, sys
from esam_jax import cli
from esam_jax.data import decode

def most():
    with open("/proc/self/status") as file:
        return int(re.search(r"VmHWM:\\s*(\\d+)", file.read())[1]) // 1024

def call(command, path, *more):
    return cli.main([command, path, "--model", model, "--out", out, *more])

model, out, broken, overfull, *bombs = sys.argv[1:]
for command in ("segment", "everything"):  # which reads a model before its first picture
    assert call(command, broken) == 2
before = most()
for bomb in bombs:
    codes = [call("everything", bomb)]
    if not bomb.endswith(".tar"):
        codes.append(call("segment", bomb, "--point", "3,4"))
    assert codes == [2] * len(codes), (bomb, codes)
assert decode.read_rgb(overfull).shape == (9, 9, 3)
print(most() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measured as Linux tells it")
def test_f30_bombs_are_refused_before_anything_is_allocated(model: str, tmp_path: Path):
    for name, (make, _) in BOMBS.items():
        (tmp_path / name).write_bytes(make())
    (tmp_path / "broken.png").write_bytes(encode(PLAIN)[:90])
    # Data for more rows than there are is harmless: the rows that are there are read.
    (tmp_path / "overfull.png").write_bytes(png(9, 9, chunk(b"IDAT", zeros(LARGE))))
    files = [str(tmp_path / name) for name in ("out", "broken.png", "overfull.png", *BOMBS)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, model, *files],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 50, f"{done.stdout} MB"
    for name, (_, message) in BOMBS.items():
        told = [line for line in done.stderr.splitlines() if f"/{name}" in line]
        assert told and all(message in line for line in told), (name, told)
    assert "Warning" not in done.stderr
