"""Pictures on disk to RGB. Files are hostile: type and size are checked first."""

import contextlib
import dataclasses
import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import simplejpeg
from jaxtyping import Bool, Int32, Int64, Integer, UInt8
from PIL import Image

from esam_jax import files
from esam_jax.data.findings import Kind, choice
from esam_jax.errors import DataError
from esam_jax.ops.regions import MAX_PIXELS, MAX_SIDE
from esam_jax.places import Place, StorePath

Format = Literal["JPEG", "PNG", "WEBP"]
Orientation = Literal["upright", "stored"]
SixteenBit = Literal["upper_byte", "stretch"]
Notice = Callable[[Kind, str], None]
# In any case: all that Pillow gives to pictures of these formats.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp")

_MAX_BYTES = 2**29
_HEAD_BYTES = 2**16
_AHEAD = 2**20  # of a picture in a store: most are read by one call
_EXIF_ORIENTATION = 0x0112
# Pillow spreads grey values of 2 and 4 bits over 0 to 255; a PNG's depth is its 25th byte.
_SPREAD = {2: 85, 4: 17}
_FEW_LEVELS = 64  # of 256: what sensors of 14 bits, and of fewer, leave in the upper byte


@dataclasses.dataclass(frozen=True)
class Header:
    """What the first bytes of a picture file say; `width` and `height` are those once decoded.

    `mode` is Pillow's name for how colours are stored; `turn` is the EXIF orientation that decoding
    undoes, 1 for none.
    """

    kind: Format
    mode: str
    width: int
    height: int
    turn: int

    def as_stored(self) -> "Header":
        """The same for the picture that is not turned."""
        sides = (self.width, self.height)
        width, height = sides if self.turn < 5 else sides[::-1]
        return dataclasses.replace(self, width=width, height=height, turn=1)


def read_rgb(
    path: str | Place, sixteen_bit: SixteenBit = "upper_byte"
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture as RGB, turned upright by its EXIF tag.

    JPEG, PNG and WebP, recognised by content and not by name. Grey, palette, CMYK and 16-bit
    pictures are converted, alpha is dropped, an animation gives its first frame. Grey values of 16
    bits keep their upper byte, or are stretched from the lowest to the highest; a UserWarning
    reports that hardly any level would be left, or that there are more frames. Raises MissingError
    when the file cannot be opened, DiskError when its disk does not answer, DataError when it is
    empty, broken, cut short, of another type or too large (64 megapixels, 16384 a side). A flipped
    bit inside the pixels cannot be noticed.
    """

    def warn(kind: Kind, text: str) -> None:
        warnings.warn(f"{path}: {text}{choice(kind)}", UserWarning, stacklevel=2)

    with named(path):
        return decode_rgb(read_file(path), sixteen_bit=sixteen_bit, notice=warn)


def read_mask(path: str | Place) -> Bool[np.ndarray, "H W"]:
    """Where a picture, upright, is not black; otherwise as `read_rgb`.

    16-bit pictures hold numbers of objects, most of which would be black as a colour.
    """
    with named(path):
        return decode_mask(read_file(path))


def read_numbers(path: str | Place) -> Integer[np.ndarray, "H W"]:
    """The values of a grey or palette picture as they are stored, turned upright.

    As of a map of objects, by their numbers. Errors as of `read_rgb`; DataError for colours, and
    for a JPEG, which does not keep numbers.
    """
    with named(path):
        data = read_file(path)
        return numbers(data, header(data))


def numbers(data: bytes, head: Header) -> Integer[np.ndarray, "H W"]:
    """`read_numbers` of a file whose header has been read."""
    _require_lossless(head)
    if head.mode not in ("1", "L", "P") and not head.mode.startswith("I"):
        raise DataError(
            f"its pixels are {head.mode}, but a map of objects is grey, one number a pixel: "
            "write it as a PNG of 8 or 16 bits"
        )
    with _decoding(head.kind), _opened(data) as (image, _):
        values = np.asarray(image)
    if head.kind == "PNG" and head.mode == "L":
        values = values // _SPREAD.get(data[24], 1)
    return _upright(values.astype(np.uint8) if values.dtype == bool else values, head.turn)


def read_coloured_numbers(path: str | Place) -> Int32[np.ndarray, "H W"]:
    """R + 256 G + 65536 B of an RGB picture, turned upright: COCO's panoptic segments.

    Errors as of `read_numbers`; DataError for what has no colours.
    """
    with named(path):
        data = read_file(path)
        head = header(data)
        _require_lossless(head)
        if head.mode != "RGB" or _has_16_bits(data):
            raise DataError(
                f"its pixels are {head.mode}{' of 16 bits' * _has_16_bits(data)}, but a panoptic "
                "map is RGB, R + 256 G + 65536 B the number of a segment: write it so, as a PNG"
            )
        return pixels(data, head).astype(np.int32) @ np.array([1, 256, 65536], np.int32)


def _require_lossless(head: Header) -> None:
    if head.kind == "JPEG":
        raise DataError("it is a JPEG, which does not keep numbers: write it as a PNG")


def decode_mask(data: bytes) -> Bool[np.ndarray, "H W"]:
    """`read_mask` for the bytes of a file."""
    head = header(data)
    if not head.mode.startswith("I"):
        return np.asarray(pixels(data, head).any(axis=2))
    with _opened(data) as (image, _):
        return _upright(np.asarray(image).astype(bool), head.turn)


def decode_rgb(
    data: bytes,
    orientation: Orientation = "upright",
    sixteen_bit: SixteenBit = "upper_byte",
    notice: Notice | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """`read_rgb` for the bytes of a file, "stored" as they are or upright.

    `notice` is called with what `read_rgb` would warn of.
    """
    return pixels(data, header(data, orientation), None, sixteen_bit, notice)


def header(data: bytes, orientation: Orientation = "upright") -> Header:
    """Kind and size of a picture file, its pixels not decoded; DataError as `read_rgb`."""
    with _opened(data) as (image, kind):
        turn = _orientation(data, image) if orientation == "upright" else 1
        width, height = image.size if turn < 5 else image.size[::-1]
        return Header(kind, image.mode, width, height, turn)


def pixels(
    data: bytes,
    head: Header,
    at_least: tuple[int, int] | None = None,
    sixteen_bit: SixteenBit = "upper_byte",
    notice: Notice | None = None,
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture of a file whose header has been read, as `decode_rgb`.

    With `at_least` (height, width), JPEG is decoded at the smallest number of eighths of its size
    that is no smaller than that, by a smaller inverse DCT; other formats in full.
    """
    if head.kind == "JPEG" and head.mode in ("L", "RGB"):
        height, width = at_least or (0, 0)  # 0: no limit, which means full size
        if head.turn >= 5:  # the limits are those of the turned picture
            height, width = width, height
        with _decoding(head.kind), contextlib.suppress(ValueError):
            # simplejpeg refuses harmless deviations, too; Pillow still refuses what is cut short.
            return _upright(_by_simplejpeg(data, height, width), head.turn)
    with _opened(data) as (image, kind):
        rgb, lost = _by_pillow(image, sixteen_bit, _has_16_bits(data))
        frames = 1 if kind == "JPEG" else getattr(image, "n_frames", 1)
    if lost is not None and notice is not None:
        notice("narrow_16_bit", lost)
    if frames > 1 and notice is not None:
        notice("animations", f"the first of its {frames} frames is read")
    return _upright(rgb, head.turn)


def read_file(path: str | Place) -> bytes:
    """A picture file, complete and not decoded; errors as those of `read_rgb`, without the path."""

    if isinstance(path, StorePath):
        return read_bytes(path.open("rb", ahead=_AHEAD).read)

    def attempt() -> bytes:
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a pipe would never return
            raise DataError("it is not a regular file")
        with open(path, "rb") as file:
            return read_bytes(file.read)

    return files.read(path, attempt, "check the path")


def read_bytes(read: Callable[[int], bytes]) -> bytes:
    """A picture file, complete and not decoded, by the `read` of an open one.

    DataError, before the rest is read, when its first bytes are those of no picture, or of one that
    is too large: an archive may hold gigabytes of zeros in a few kilobytes.
    """
    head = read(_HEAD_BYTES)
    _check_head(head, _kind(head))
    data = head + read(_MAX_BYTES + 1 - len(head))
    if len(data) > _MAX_BYTES:
        raise DataError(f"it is larger than {_MAX_BYTES} bytes: make it smaller first")
    return data


@contextlib.contextmanager
def named(name: str | Place) -> Iterator[None]:
    """While it lasts, every DataError starts with `name`."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[tuple[Image.Image, Format]]:
    """The picture, its header checked and its pixels not decoded; whatever fails is a DataError."""
    kind = _kind(data)
    _check_head(data, kind)
    with _decoding(kind), Image.open(io.BytesIO(data), formats=[kind]) as image:
        _check_size(*image.size)
        yield image, kind


@contextlib.contextmanager
def _decoding(kind: Format) -> Iterator[None]:
    """While it lasts, every error is a DataError."""
    try:
        yield
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"the header declares more than {MAX_PIXELS} pixels; make it smaller first"
        ) from error
    except Exception as error:  # decoders answer broken bytes with any kind of exception
        raise DataError(f"broken {kind} picture ({error}): fetch it again") from error


def _kind(data: bytes) -> Format:
    if not data:
        raise DataError("the file is empty (0 bytes): fetch it again")
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    raise DataError(
        f"not a JPEG, PNG or WebP picture (it starts with {data[:8]!r}): convert it to one of these"
    )


def _check_head(data: bytes, kind: Format) -> None:
    """DataError for a size that Pillow would warn of, or make room for, before it is opened."""
    size = _promised(data, kind)
    if size is not None:
        _check_size(*size)


def _promised(data: bytes, kind: Format) -> tuple[int, int] | None:
    """Width and height by the first bytes of a file; None where they do not show it.

    Sources: PNG (W3C), section 11.2.1; WebP (RFC 9649), sections 2.5 to 2.7.
    """
    if kind == "JPEG":
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError:
            return None
        return int(width), int(height)
    if len(data) < 30:
        return None
    if kind == "PNG":
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if data[12:16] == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = (int.from_bytes(data[i : i + 2], "little") & 0x3FFF for i in (26, 28))
    return width, height


def _check_size(width: int, height: int) -> None:
    if width > MAX_SIDE or height > MAX_SIDE or width * height > MAX_PIXELS:
        raise DataError(
            f"the picture is {width} x {height}, but at most {MAX_SIDE} a side and {MAX_PIXELS} "
            "pixels are read; make it smaller first"
        )


def _by_simplejpeg(data: bytes, height: int, width: int) -> UInt8[np.ndarray, "H W 3"]:
    return simplejpeg.decode_jpeg(
        data,
        colorspace="RGB",
        fastdct=False,
        fastupsample=False,
        min_height=height,
        min_width=width,
    )


def _by_pillow(
    image: Image.Image, sixteen_bit: SixteenBit, has_16_bits: bool
) -> tuple[UInt8[np.ndarray, "H W 3"], str | None]:
    """The pixels, and in words what was lost of 16 bits."""
    if image.mode.startswith("I"):
        grey, lost = _eight_bits(np.asarray(image).astype(np.int64), sixteen_bit)
        return np.repeat(grey[..., None], 3, axis=2), lost
    rgb = _rgb(image)
    levels = int(rgb.max()) - int(rgb.min()) + 1
    if not has_16_bits or levels > _FEW_LEVELS:
        return rgb, None
    # Pillow drops the lower bytes of colours.
    return rgb, f"the upper bytes of its 16-bit colours have {levels} levels: make it 8-bit first"


def _eight_bits(
    values: Int64[np.ndarray, "H W"], sixteen_bit: SixteenBit
) -> tuple[UInt8[np.ndarray, "H W"], str | None]:
    low, high = int(values.min()), int(values.max())
    if sixteen_bit == "stretch" and high > low:
        return np.rint((values - low) * (255 / (high - low))).astype(np.uint8), None
    levels = (high >> 8) - (low >> 8) + 1
    lost = None
    if levels <= _FEW_LEVELS and high > low:
        lost = f"its 16-bit values from {low} to {high} become {levels} of 256 levels"
    return (values >> 8).astype(np.uint8), lost


def _has_16_bits(data: bytes) -> bool:
    """Whether a file is a PNG of 16 bits a channel (PNG, W3C, section 11.2.1)."""
    return data.startswith(b"\x89PNG") and data[24:25] == b"\x10"


def _rgb(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    if image.mode == "P":  # Pillow warns on the direct way when the palette has transparency
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _orientation(data: bytes, image: Image.Image) -> int:
    try:
        # A PNG may have EXIF after its pixels. Its own `getexif` decodes it in order to look, and
        # does so for every PNG without any.
        late = image.format == "PNG" and _has_late_metadata(data)
        exif = image.getexif() if late else Image.Image.getexif(image)
        turn = exif.get(_EXIF_ORIENTATION, 1)
    except Exception:  # a damaged tag block raises almost anything, and the pixels are still good
        return 1
    return turn if turn in range(1, 9) else 1


def _has_late_metadata(data: bytes) -> bool:
    """Whether a PNG has EXIF or text after its first pixels (PNG, W3C, sections 5.3 and 11.3)."""
    at, pixels = 8, False
    while at + 8 <= len(data):
        name = data[at + 4 : at + 8]
        if pixels and name in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
            return True
        pixels = pixels or name == b"IDAT"
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return False


def _upright(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Undo an EXIF orientation: 5 to 8 are transposed, and then each of 1 to 4 is a flip."""
    if turn >= 5:
        pixels, turn = pixels.swapaxes(0, 1), turn - 4
    down, right = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1)}[turn]
    return np.ascontiguousarray(pixels[::down, ::right])
