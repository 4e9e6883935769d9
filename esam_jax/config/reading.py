"""What kinds of data share: pictures and objects in files, archives, several data sets as one."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from esam_jax.config.rules import (
    MAY_DIFFER,
    Config,
    above,
    at_least,
    at_most,
    distinct,
    each,
    readable,
)

# Every kind that the records of a source may have.
ANNOTATIONS = frozenset({"masks", "label", "semantic", "boundaries", "federated"})
_KEY = re.compile(r",(?=[a-z_]+=)")  # behind a path of a mixture


@dataclasses.dataclass(frozen=True, kw_only=True)
class _PathConfig(Config):
    """A path on a disk, or in an object store ("gs://bucket/folder", "s3://bucket/folder").

    A mount may move; whether the same files lie there cannot be known.
    """

    path: Annotated[str | None, readable(), MAY_DIFFER] = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _PicturesConfig(Config):
    """Pictures on a disk.

    Grey values of 16 bits keep their upper byte, or are stretched from the lowest of a picture to
    its highest: cameras of 12 bits, and 8-bit numbers in 16 bits, would be black.
    `heldout` pictures can be kept from training: `part` says which of the two are read. `ids` is a
    text file that names the pictures which are read, one a line, as `esam data subset` writes it.
    """

    usual: ClassVar[tuple[int, int, int]]  # height, width and masks of a picture, for `esam plan`
    sixteen_bit: Literal["upper_byte", "stretch"] = "upper_byte"
    ids: Annotated[str | None, readable(), MAY_DIFFER] = None
    part: Literal["all", "train", "heldout"] = "all"
    heldout: Annotated[int, at_least(0)] = 0

    def across(self) -> Iterator[tuple[str, str]]:
        if (self.part == "all") != (self.heldout == 0):
            yield "heldout", f"is for a part of the pictures, and part is {self.part!r}: set both"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilesConfig(_PicturesConfig, _PathConfig):
    """Pictures at one path."""

    RETIRED: ClassVar[tuple[str, ...]] = ("split", "scenes", "scene_px")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ObjectsConfig(Config):
    """Objects that annotations list.

    `crowds` are objects with `iscrowd`: groups in COCO, but brush strokes in what some tools write.
    A picture with an EXIF orientation is read as the size in its annotations says. Where both
    readings have that size (a square, a turn by 180 degrees), `ambiguous_exif` decides.
    """

    crowds: Literal["leave_out", "use"] = "leave_out"
    ambiguous_exif: Literal["upright", "stored"] = "upright"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnotatedConfig(_ObjectsConfig, FilesConfig):
    """Pictures with objects in json."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitConfig(FilesConfig):
    """Pictures of a data set that comes in splits: all of them, or the one of this name."""

    RETIRED: ClassVar[tuple[str, ...]] = ("scenes", "scene_px")
    split: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TarsConfig(Config):
    """Files that may lie in tar archives, which are not unpacked.

    Each archive gets an index beside it, or in the folder `index`, where it may not be written.
    """

    index: Annotated[str | None, readable(), MAY_DIFFER] = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureConfig(_ObjectsConfig, _PicturesConfig):
    """Several data sets as one; each path means what it means to `esam data check`.

    Keys of its kind may follow a path: "DAVIS,split=2017/train". Every record comes as often in an
    epoch as `times` says of its data set, once where `times` is empty. Of 1.25, one in four, on
    average, comes twice. The choices about pictures and objects hold for all data sets. `ids`,
    `part` and `heldout` are about distinct records; those held out come once each.
    """

    kind: ClassVar[Literal["mixture"]] = "mixture"
    usual: ClassVar[tuple[int, int, int]] = (480, 640, 7)
    annotations: ClassVar[frozenset[str]] = ANNOTATIONS  # a mixture has what all its data sets have
    RETIRED: ClassVar[tuple[str, ...]] = ()
    paths: Annotated[
        tuple[str, ...], each(readable()), distinct("raise its times instead"), MAY_DIFFER
    ] = ()
    times: Annotated[tuple[float, ...], each(above(0)), each(at_most(1_000_000))] = ()

    def across(self) -> Iterator[tuple[str, str]]:
        yield from super().across()
        if self.times and len(self.times) != len(self.paths):
            yield "times", f"must be as many numbers as there are paths: {len(self.paths)}"

    @property
    def parts(self) -> tuple[tuple[str, dict[str, str]], ...]:
        """Each path, with the keys and values that follow it."""
        found = (_KEY.split(text) for text in self.paths)
        return tuple((path, dict(map(_pair, keys))) for path, *keys in found)


def _pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value
