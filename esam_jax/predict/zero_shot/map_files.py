"""Grey pictures of numbers from 0 to 1, found by the names of the pictures that they are of."""

import hashlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float32
from PIL import Image

from esam_jax.data import decode
from esam_jax.errors import DataError, MissingError
from esam_jax.words import counted

_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
_GREY = 8  # of 255: how far the channels of a grey JPEG in colours may be apart


def of(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """The file of each name; MissingError, which says how many there are, without one of them.

    NAME.png, as `esam salient` writes it, or the name with another ending, in the same folders or
    beside one another.
    """
    if not folder.is_dir():
        raise MissingError(f"{folder} is no folder: name one with a grey picture for each picture")
    found, missing = {}, []
    for name in names:
        file = next((file for file in _candidates(folder, name) if file.is_file()), None)
        if file is None:
            missing.append(name)
        else:
            found[name] = file
    if missing:
        raise MissingError(
            f"{folder} has no {PurePosixPath(missing[0]).stem}.png, nor that of "
            f"{counted(len(missing) - 1, 'other picture')}: write a grey PNG for each picture, of "
            "its name and size"
        )
    return found


def digest(files: Mapping[str, Path]) -> str:
    """Of the names and contents, so that a map that was changed is noticed; one that cannot be read
    counts by its name."""
    found = hashlib.sha256()
    for name, file in sorted(files.items()):
        try:
            content = file.read_bytes()
        except OSError:
            content = b""
        found.update(f"{name!a} {len(content)};".encode())
        found.update(content)
    return found.hexdigest()[:12]


def read(path: Path, size: tuple[int, int] | None = None) -> Float32[np.ndarray, "H W"]:
    """The numbers of a grey picture of 1, 8 or 16 bits, or of one in colours that are all grey.

    size: height and width that it must have. Errors as of `decode.read_rgb`; DataError, which names
    the file, for colours and for another size.
    """
    with decode.named(path):
        data = decode.read_file(path)
        head = decode.header(data)
        if size is not None and (head.height, head.width) != size:
            raise DataError(
                f"it is {head.width} x {head.height}, but its picture {size[1]} x {size[0]}: write "
                "it in that size"
            )
        if head.mode.startswith("I"):
            return (decode.numbers(data, head) / (2**16 - 1)).astype(np.float32)
        rgb = decode.pixels(data, head)
        if head.mode not in ("1", "L") and int(np.ptp(rgb.astype(np.int16), axis=2).max()) > _GREY:
            raise DataError("it has colours, but must be grey: write one number a pixel as a PNG")
        return rgb[..., 0].astype(np.float32) / (2**8 - 1)


def png(found: Float32[np.ndarray, "H W"]) -> bytes:
    """The bytes of a grey PNG of 8 bits."""
    buffer = io.BytesIO()
    Image.fromarray(np.rint(found * 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _candidates(folder: Path, name: str) -> Iterable[Path]:
    path = PurePosixPath(name)
    for stem in (f"{path}", f"{path.with_suffix('')}", path.name, path.stem):
        for ending in _ENDINGS:
            yield folder / f"{stem}{ending}"
    yield folder / path
    yield folder / path.name
