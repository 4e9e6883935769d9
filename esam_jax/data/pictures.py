"""Pictures on disk to RGB. Files are hostile: type and size are checked first."""

import io
from pathlib import Path
from typing import Literal

import numpy as np
import simplejpeg
from jaxtyping import UInt8
from PIL import Image

from esam_jax.errors import DataError, MissingError
from esam_jax.ops.regions import MAX_PIXELS, MAX_SIDE

Orientation = Literal["exif", "stored"]
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")  # in any case

_MAX_BYTES = 2**29
_EXIF_ORIENTATION = 0x0112


def read_rgb(path: str | Path, orientation: Orientation = "exif") -> UInt8[np.ndarray, "H W 3"]:
    """The picture as RGB, turned upright by its EXIF tag unless orientation is "stored".

    JPEG, PNG and WebP, told by content and not by name. Grey, palette, CMYK and 16-bit pictures are
    converted, alpha is dropped, an animation gives its first frame. Raises MissingError when the
    file cannot be opened, DataError when it is broken, cut short, of another type or too large
    (64 megapixels, 16384 a side). A flipped bit inside the pixels cannot be noticed.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise MissingError(f"{path} cannot be read ({error.strerror}): check the path") from error
    if len(data) > _MAX_BYTES:
        raise DataError(f"{path} is larger than {_MAX_BYTES} bytes: make it smaller first")
    try:
        return decode_rgb(data, orientation)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def decode_rgb(data: bytes, orientation: Orientation = "exif") -> UInt8[np.ndarray, "H W 3"]:
    """`read_rgb` for the bytes of a file."""
    kind = _kind(data)
    try:
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            _check_size(*image.size)
            turn = _orientation(image) if orientation == "exif" else 1
            rgb = _pixels(data, image, kind)
    except DataError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"the header promises more than {MAX_PIXELS} pixels; make it smaller first"
        ) from error
    except Exception as error:  # decoders answer broken bytes with whatever they stumble over
        raise DataError(f"broken {kind} picture ({error}): fetch it again") from error
    return _upright(rgb, turn)


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


def _check_size(width: int, height: int) -> None:
    if width > MAX_SIDE or height > MAX_SIDE or width * height > MAX_PIXELS:
        raise DataError(
            f"the picture is {width} x {height}, but at most {MAX_SIDE} a side and {MAX_PIXELS} "
            "pixels are read; make it smaller first"
        )


def _pixels(data: bytes, image: Image.Image, kind: str) -> UInt8[np.ndarray, "H W 3"]:
    if kind == "JPEG" and image.mode in ("L", "RGB"):
        try:
            return simplejpeg.decode_jpeg(data, colorspace="RGB", fastdct=False, fastupsample=False)
        except ValueError:
            # simplejpeg also refuses harmless oddities; Pillow still refuses what is cut short.
            pass
    if image.mode.startswith("I;16"):
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "P":  # Pillow warns on the direct way when the palette has transparency
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    try:
        turn = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a damaged tag block raises almost anything, and the pixels are still good
        return 1
    return turn if turn in range(1, 9) else 1


def _upright(rgb: UInt8[np.ndarray, "H W 3"], turn: int) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Undo an EXIF orientation: 5 to 8 are transposed, and then each of 1 to 4 is a flip."""
    if turn >= 5:
        rgb, turn = rgb.transpose(1, 0, 2), turn - 4
    down, right = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1)}[turn]
    return np.ascontiguousarray(rgb[::down, ::right])
