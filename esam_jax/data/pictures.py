"""Pictures whose size is known at once and whose pixels are decoded on demand, and where they lie.

Sources and albums share this: both list the picture files of a folder and read them as bytes.
"""

import dataclasses
import os
from pathlib import Path
from typing import NoReturn, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from esam_jax import files
from esam_jax.data import decode
from esam_jax.errors import MissingError


@runtime_checkable  # for the shape checks in the tests
class Picture(Protocol):
    """A picture in the frame of its annotations; `height` and `width` need no decoding."""

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    def rgb(self, at_least: tuple[int, int] | None = None) -> UInt8[np.ndarray, "H W 3"]:
        """The pixels; DataError when they are broken.

        With `at_least` (height, width), a smaller version that is no smaller than that, where one
        costs less to decode.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Pixels:
    """A picture that is an array already."""

    array: UInt8[np.ndarray, "H W 3"]

    @property
    def height(self) -> int:
        return self.array.shape[0]

    @property
    def width(self) -> int:
        return self.array.shape[1]

    def rgb(self, at_least: tuple[int, int] | None = None) -> UInt8[np.ndarray, "H W 3"]:
        return self.array


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A picture file in memory, only its header read so far; errors start with `name`."""

    name: str
    data: bytes = dataclasses.field(repr=False)
    header: decode.Header

    @property
    def height(self) -> int:
        return self.header.height

    @property
    def width(self) -> int:
        return self.header.width

    def rgb(self, at_least: tuple[int, int] | None = None) -> UInt8[np.ndarray, "H W 3"]:
        with decode.named(self.name):
            return decode.pixels(self.data, self.header, at_least)


def read(path: str | Path, orientation: decode.Orientation = "exif") -> Encoded:
    """The picture file at `path`, its header checked; errors as those of `decode.read_rgb`."""
    with decode.named(path):
        data = decode.read_file(path)
        return Encoded(str(path), data, decode.header(data, orientation))


def list_pictures(root: Path) -> list[str]:
    """Relative paths with "/" of all pictures below root, sorted; hidden ones are left out.

    MissingError for a folder that may not be read, DiskError where the disk does not answer: a
    list without its pictures would be other data.
    """
    try:
        there = root.is_dir()
    except OSError as fault:
        _refuse(fault)
    if not there:
        raise MissingError(f"{root} is not a folder")
    found = []
    for folder, subfolders, names in os.walk(root, onerror=_refuse):
        # The root of a file system has a folder that only its owner may list.
        subfolders[:] = [x for x in subfolders if not x.startswith(".") and x != "lost+found"]
        below = Path(folder).relative_to(root)
        found += [
            (below / name).as_posix()
            for name in names
            if name.lower().endswith(decode.SUFFIXES) and not name.startswith(".")
        ]
    # By code point: the order, and with it the shuffle, is the same on every machine.
    return sorted(found)


def _refuse(fault: OSError) -> NoReturn:
    raise files.read_error(fault.filename, fault, "make it readable, or move it away") from fault
