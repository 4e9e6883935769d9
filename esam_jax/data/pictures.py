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
from esam_jax.config import CocoConfig, Sa1bConfig
from esam_jax.data import decode
from esam_jax.data.findings import Finding
from esam_jax.errors import DataError, MissingError


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
    """A picture file in memory, only its header read so far; errors start with `name`.

    What decoding finds is `noted`.
    """

    name: str
    data: bytes = dataclasses.field(repr=False)
    header: decode.Header
    sixteen_bit: decode.SixteenBit = "upper_byte"
    noted: list[Finding] = dataclasses.field(default_factory=list)

    @property
    def height(self) -> int:
        return self.header.height

    @property
    def width(self) -> int:
        return self.header.width

    def rgb(self, at_least: tuple[int, int] | None = None) -> UInt8[np.ndarray, "H W 3"]:
        with decode.named(self.name):
            return decode.pixels(
                self.data, self.header, at_least, self.sixteen_bit, self._note_narrow
            )

    def _note_narrow(self, text: str) -> None:
        self.noted.append(Finding("narrow_16_bit", f"{self.name}: {text}"))


def read(
    path: str | Path,
    orientation: decode.Orientation = "upright",
    sixteen_bit: decode.SixteenBit = "upper_byte",
    noted: list[Finding] | None = None,
) -> Encoded:
    """The picture file at `path`, its header checked; errors as those of `decode.read_rgb`."""
    with decode.named(path):
        data = decode.read_file(path)
        head = decode.header(data, orientation)
    return Encoded(str(path), data, head, sixteen_bit, [] if noted is None else noted)


def read_as_annotated(
    path: str | Path,
    name: str,
    size: tuple[int, int] | None,
    config: CocoConfig | Sa1bConfig,
    noted: list[Finding],
) -> Encoded:
    """The picture file at `path`, in the frame in which its objects were drawn.

    That is the upright picture or the stored one, whichever has the (height, width) that the
    annotations state. Where both have it, or nothing is stated, the config decides, which is
    `noted`. DataError where neither has it, and as `read`.
    """
    upright = read(path, "upright", config.sixteen_bit, noted)
    turn = upright.header.turn
    stored = dataclasses.replace(upright, header=upright.header.as_stored())
    fitting = {
        orientation: picture
        for orientation, picture in (("upright", upright), ("stored", stored))
        if size is None or size == (picture.height, picture.width)
    }
    if not fitting:
        sizes = dict.fromkeys(f"{each.height} x {each.width}" for each in (upright, stored))
        raise DataError(
            f"{name} is {' or, as stored, '.join(sizes)}, but its annotations say "
            f"{' x '.join(map(str, size or ()))}: they belong to another picture, or it was resized"
        )
    if turn != 1 and len(fitting) == 2:
        text = f"{name}: EXIF orientation {turn} and no size that decides"
        noted.append(
            Finding("ambiguous_exif", f"{text}; read {config.ambiguous_exif} (ambiguous_exif)")
        )
        return fitting[config.ambiguous_exif]
    return next(iter(fitting.values()))


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
