"""Pictures whose size is known at once and whose pixels are decoded on demand, and where they lie.

Sources and albums share this: both list the picture files of a folder and read them as bytes.
"""

import dataclasses
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import NoReturn, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from esam_jax import files, places
from esam_jax.config import CocoConfig, PanopticConfig, Sa1bConfig
from esam_jax.data import decode
from esam_jax.data.findings import Finding, Kind
from esam_jax.errors import DataError, MissingError
from esam_jax.places import Place

_ENDING = re.compile(r"\.[a-z0-9]{1,8}")
_MOST_ENDINGS = 8  # in one line


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
            return decode.pixels(self.data, self.header, at_least, self.sixteen_bit, self._note)

    def _note(self, kind: Kind, text: str) -> None:
        self.noted.append(Finding(kind, f"{self.name}: {text}"))


def read(
    path: str | Place,
    orientation: decode.Orientation = "upright",
    sixteen_bit: decode.SixteenBit = "upper_byte",
    noted: list[Finding] | None = None,
) -> Encoded:
    """The picture file at `path`, its header checked; errors as those of `decode.read_rgb`."""
    with decode.named(path):
        data = decode.read_file(path)
    return encoded(str(path), data, orientation, sixteen_bit, noted)


def encoded(
    name: str,
    data: bytes,
    orientation: decode.Orientation = "upright",
    sixteen_bit: decode.SixteenBit = "upper_byte",
    noted: list[Finding] | None = None,
) -> Encoded:
    """`read` for the bytes of a picture file, which `name` is for people."""
    with decode.named(name):
        head = decode.header(data, orientation)
    return Encoded(name, data, head, sixteen_bit, [] if noted is None else noted)


def read_as_annotated(
    path: str | Place,
    name: str,
    size: tuple[int, int] | None,
    config: CocoConfig | PanopticConfig | Sa1bConfig,
    noted: list[Finding],
) -> Encoded:
    """The picture file at `path`, in the `frame` in which its objects were drawn; errors as `read`.

    `size` is the (height, width) that the annotations state.
    """
    upright = read(path, "upright", config.sixteen_bit, noted)
    return as_annotated(upright, name, size, config)


def as_annotated(
    upright: Encoded,
    name: str,
    size: tuple[int, int] | None,
    config: CocoConfig | PanopticConfig | Sa1bConfig,
) -> Encoded:
    """`read_as_annotated` for a picture that was opened upright, with its findings."""
    try:
        header = frame(upright.header, size, name, config.ambiguous_exif, upright.noted)
    except DataError as error:
        raise DataError(
            f"{name} {error}, but its annotations say {' x '.join(map(str, size or ()))}: they "
            "belong to another picture, or it was resized"
        ) from error
    return dataclasses.replace(upright, header=header)


def frame(
    upright: decode.Header,
    size: tuple[int, int] | None,
    name: str,
    ambiguous_exif: decode.Orientation,
    noted: list[Finding],
) -> decode.Header:
    """The header of the upright picture or the stored one, whichever has the (height, width).

    Where both have it, or no size is stated, `ambiguous_exif` decides, which is `noted`. DataError
    where neither has it: "is 20 x 30".
    """
    frames = {"upright": upright, "stored": upright.as_stored()}
    fitting = {
        orientation: header
        for orientation, header in frames.items()
        if size is None or size == (header.height, header.width)
    }
    if not fitting:
        sizes = dict.fromkeys(f"{each.height} x {each.width}" for each in frames.values())
        raise DataError(f"is {' or, as stored, '.join(sizes)}")
    if upright.turn != 1 and len(fitting) == 2:
        text = f"{name}: EXIF orientation {upright.turn} and no size that decides"
        noted.append(Finding("ambiguous_exif", f"{text}; read {ambiguous_exif}"))
        return fitting[ambiguous_exif]
    return next(iter(fitting.values()))


@dataclasses.dataclass(frozen=True)
class Listed:
    """Names of pictures; `left_out` counts all other files, by their ending or another reason.

    `folders` are all that lie in the root itself, sorted.
    """

    names: tuple[str, ...]
    left_out: Mapping[str, int]
    folders: tuple[str, ...] = ()


def list_pictures(root: Place) -> Listed:
    """Relative paths with "/" of all pictures below root, sorted.

    Hidden files and folders are neither read nor counted. MissingError for a folder that may not be
    read, DiskError where the disk does not answer: a list without its pictures would be other data.
    """
    try:
        there = root.is_dir()
    except OSError as fault:
        _refuse(fault)
    if not there:
        raise MissingError(f"{root} is not a folder")
    found: list[str] = []
    left_out: Counter[str] = Counter()
    first: list[str] | None = None
    for folder, subfolders, names in places.walk(root, _refuse):
        # The root of a file system has a folder that only its owner may list.
        subfolders[:] = [x for x in subfolders if not x.startswith(".") and x != "lost+found"]
        first = [*subfolders] if first is None else first
        below = PurePosixPath(folder.relative_to(root).as_posix())
        for name in (below / name for name in names if not name.startswith(".")):
            ending = other_ending(name)
            if ending is None:
                found.append(str(name))
            else:
                left_out[ending] += 1
    # By code point: the order, and with it the shuffle, is the same on every machine.
    return Listed(tuple(sorted(found)), left_out, tuple(sorted(first or ())))


def other_ending(name: PurePosixPath) -> str | None:
    """The ending of a file that is not read, or what to call it; None for a picture's name."""
    ending = name.suffix.lower()
    if ending in decode.SUFFIXES:
        return None
    # What else stands there may be of any length, or obeyed by a terminal.
    return ending if _ENDING.fullmatch(ending) else "no ending" if not ending else "others"


def warn_of(root: Place, left_out: Mapping[str, int]) -> None:
    """A UserWarning, in one line, where something was left out."""
    if left_out:
        warnings.warn(
            f"{root}: not read: {_counts(left_out)}; pictures are {', '.join(decode.SUFFIXES)}",
            UserWarning,
            stacklevel=3,
        )


def none_of(where: Place | str, left_out: Mapping[str, int]) -> str:
    """That there is no picture, and what there is."""
    holds = f"; it holds {_counts(left_out)}: convert what are pictures" if left_out else ""
    return f"{where} holds no {', '.join(decode.SUFFIXES)} file at any depth{holds}"


def _counts(left_out: Mapping[str, int]) -> str:
    """The most frequent first."""
    ordered = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    more = sum(count for _, count in ordered[_MOST_ENDINGS:])
    shown = [f"{reason} ({count})" for reason, count in ordered[:_MOST_ENDINGS]]
    return ", ".join([*shown, *([f"{more} more"] if more else [])])


def _refuse(fault: OSError) -> NoReturn:
    raise files.read_error(fault.filename, fault, "make it readable, or move it away") from fault
