"""Pictures on disk to RGB. Files are hostile: type and size are checked first."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import simplejpeg
from jaxtyping import Bool, UInt8
from PIL import Image

from esam_jax import files
from esam_jax.errors import DataError
from esam_jax.ops.regions import MAX_PIXELS, MAX_SIDE

Orientation = Literal["exif", "stored"]
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")  # in any case

_MAX_BYTES = 2**29
_HEAD_BYTES = 2**16
_EXIF_ORIENTATION = 0x0112


def read_rgb(path: str | Path, orientation: Orientation = "exif") -> UInt8[np.ndarray, "H W 3"]:
    """The picture as RGB, turned upright by its EXIF tag unless orientation is "stored".

    JPEG, PNG and WebP, told by content and not by name. Grey, palette, CMYK and 16-bit pictures are
    converted, alpha is dropped, an animation gives its first frame. Raises MissingError when the
    file cannot be opened, DiskError when its disk does not answer, DataError when it is broken, cut
    short, of another type or too large (64 megapixels, 16384 a side). A flipped bit inside the
    pixels cannot be noticed.
    """
    return _read(path, lambda data: decode_rgb(data, orientation))


def read_mask(path: str | Path) -> Bool[np.ndarray, "H W"]:
    """Where a picture, upright, is not black; otherwise as `read_rgb`.

    16-bit pictures hold numbers of objects, most of which would be black as a colour.
    """
    return _read(path, lambda data: _decode(data, "exif", _inside))


def decode_rgb(data: bytes, orientation: Orientation = "exif") -> UInt8[np.ndarray, "H W 3"]:
    """`read_rgb` for the bytes of a file."""
    return _decode(data, orientation, _rgb)


def read_bytes(read: Callable[[int], bytes]) -> bytes:
    """A picture file, whole and not decoded, by the `read` of an open one.

    DataError, before the rest is read, when its first bytes are those of no picture, or of one that
    is too large: an archive may hold gigabytes of zeros in a few kilobytes.
    """
    head = read(_HEAD_BYTES)
    _check_head(head, _kind(head))
    data = head + read(_MAX_BYTES + 1 - len(head))
    if len(data) > _MAX_BYTES:
        raise DataError(f"it is larger than {_MAX_BYTES} bytes: make it smaller first")
    return data


def _read(path: str | Path, decode: Callable[[bytes], Any]) -> Any:
    def attempt() -> bytes:
        with open(path, "rb") as file:
            return read_bytes(file.read)

    try:
        return decode(files.read(path, attempt, "check the path"))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _decode(data: bytes, orientation: Orientation, convert: Callable[..., Any]) -> Any:
    """What `convert(data, image, kind)` makes of the picture, upright."""
    kind = _kind(data)
    _check_head(data, kind)
    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            _check_size(*image.size)
            turn = _orientation(image) if orientation == "exif" else 1
            pixels = convert(data, image, kind)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"the header promises more than {MAX_PIXELS} pixels; make it smaller first"
        ) from error
    except Exception as error:  # decoders answer broken bytes with whatever they stumble over
        raise DataError(f"broken {kind} picture ({error}): fetch it again") from error
    return _upright(pixels, turn)


def _kind(data: bytes) -> str:
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    raise DataError(
        f"not a JPEG, PNG or WebP picture (it starts with {data[:8]!r}): convert it to one of these"
    )


def _check_head(data: bytes, kind: str) -> None:
    """DataError for a size that Pillow would warn of, or make room for, before it is asked."""
    size = _promised(data, kind)
    if size is not None:
        _check_size(*size)


def _promised(data: bytes, kind: str) -> tuple[int, int] | None:
    """Width and height by the first bytes of a file; None where they do not tell.

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


def _rgb(data: bytes, image: Image.Image, kind: str) -> UInt8[np.ndarray, "H W 3"]:
    if kind == "JPEG" and image.mode in ("L", "RGB"):
        try:
            return simplejpeg.decode_jpeg(data, colorspace="RGB", fastdct=False, fastupsample=False)
        except ValueError:
            # simplejpeg also refuses harmless oddities; Pillow still refuses what is cut short.
            pass
    if image.mode.startswith("I"):
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "P":  # Pillow warns on the direct way when the palette has transparency
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _inside(data: bytes, image: Image.Image, kind: str) -> Bool[np.ndarray, "H W"]:
    if image.mode.startswith("I"):
        return np.asarray(image).astype(bool)
    return np.asarray(_rgb(data, image, kind).any(axis=2))


def _orientation(image: Image.Image) -> int:
    try:
        turn = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a damaged tag block raises almost anything, and the pixels are still good
        return 1
    return turn if turn in range(1, 9) else 1


def _upright(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Undo an EXIF orientation: 5 to 8 are transposed, and then each of 1 to 4 is a flip."""
    if turn >= 5:
        pixels, turn = pixels.swapaxes(0, 1), turn - 4
    down, right = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1)}[turn]
    return np.ascontiguousarray(pixels[::down, ::right])
