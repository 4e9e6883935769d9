"""Pictures whose salient objects are known: annotated data, or a folder of masks of anybody's."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, UInt8

from esam_jax.data import decode, records
from esam_jax.data.archives import Album
from esam_jax.data.bitmaps import Grid
from esam_jax.data.findings import Finding
from esam_jax.data.mask_sets import SoundMasks
from esam_jax.data.records import Source
from esam_jax.errors import DataError, MissingError
from esam_jax.predict.zero_shot import map_files

Objects = Literal["all", "largest"]
_INSIDE = 0.5  # of a mask picture from 0 to 1: anti-aliased borders lie between

OBJECTS = {
    "all": "the truth is all annotated objects of a picture together",
    "largest": "the truth is the largest annotated object of a picture",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A picture and what is salient in it; `picture` is None where only maps are compared."""

    picture: UInt8[np.ndarray, "H W 3"] | None
    truth: Bool[np.ndarray, "H W"]
    findings: Sequence[Finding] = ()


@dataclasses.dataclass(frozen=True)
class Cases:
    """Names, and what reads the case of one; DataError or MissingError where it cannot be used.

    `read` may be called from many threads.
    """

    names: Sequence[str]
    read: Callable[[int], Case]
    digest: str
    words: str


def of_source(source: Source, objects: Objects) -> Cases:
    """The annotated objects of a source, all of a picture together or the largest of them."""

    def read(place: int) -> Case:
        record = source.read(place)
        masks, picture = SoundMasks(record), record.picture
        grid = Grid.whole(picture.height, picture.width)
        found = [masks.sample(i, grid) for i in range(len(masks))]
        masks.require_some()
        sound = [each for each in found if each is not None]
        if objects == "largest" and sound:
            sound = [max(sound, key=lambda mask: mask.area())]
        truth = np.zeros((picture.height, picture.width), bool)
        for each in sound:
            truth |= each.dense()
        return Case(picture.rgb(), truth, tuple(record.findings))

    names = [source.name(i) for i in range(len(source))]
    return Cases(names, read, records.summary(source), OBJECTS[objects])


def of_masks(folder: Path, pictures: Album | None, sixteen_bit: decode.SixteenBit) -> Cases:
    """A folder of mask pictures, one by the name of each picture; white is salient.

    Without pictures, of each file in the folder. MissingError unless every picture has its mask.
    """
    if pictures is None:
        names = [file.relative_to(folder).as_posix() for file in _files(folder)]
        masks = {name: folder / name for name in names}
    else:
        names, masks = list(pictures.names), map_files.of(folder, pictures.names)

    def read(place: int) -> Case:
        name, picture = names[place], None
        if pictures is not None:
            picture = decode.decode_rgb(pictures.read(name), sixteen_bit=sixteen_bit)
        size = None if picture is None else (picture.shape[0], picture.shape[1])
        return Case(picture, map_files.read(masks[name], size) >= _INSIDE)

    digest = f"{len(names)} masks, {map_files.digest(masks)}"
    return Cases(names, read, digest, "the truth is a mask picture for each, from half of white on")


def _files(folder: Path) -> list[Path]:
    """The pictures of a folder, at any depth."""
    if not folder.is_dir():
        raise MissingError(f"{folder} is no folder: name one with a mask picture for each map")
    found = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in decode.SUFFIXES and not file.name.startswith(".")
    ]
    if not found:
        raise DataError(f"{folder} holds no picture: name a folder of masks, such as PNGs")
    return found
