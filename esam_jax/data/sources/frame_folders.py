"""Videos as folders of pictures, with maps of their objects in folders of the same names.

DAVIS: `JPEGImages/480p/SEQUENCE/00000.jpg` and `Annotations/480p/SEQUENCE/00000.png`, in which
every number is an object; YouTube-VOS is the same without a resolution. SA-V's val and test sets:
`JPEGImages_24fps/VIDEO/00000.jpg`, and `Annotations_6fps/VIDEO/OBJECT/00000.png` for each object,
since objects may overlap.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Integer

from esam_jax import files
from esam_jax.config import VideoConfig
from esam_jax.data import decode, pictures
from esam_jax.data.findings import Finding
from esam_jax.data.mask_sets import LayeredMasks, MaskSet, NumberedMasks, Object, Region
from esam_jax.data.records import Record, sampled
from esam_jax.data.sources import paired
from esam_jax.errors import ConfigError, DataError
from esam_jax.places import Place, StorePath

_FOLDERS = (("JPEGImages", "Annotations"), ("JPEGImages_24fps", "Annotations_6fps"))
_VOID = 255  # of a map in palette colours: no object, in the scorers of DAVIS 2017
_MOST_OBJECTS = 1000  # of one video
_MAX_LAYER_BYTES = 2**29  # of the maps of one frame together


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where frames and maps of a data set lie: both hold a folder for each video."""

    root: Place
    frames: Place
    maps: Place


@dataclasses.dataclass(frozen=True)
class _Frame:
    """A picture by its name below the frames, and below the maps the files of its objects.

    An object of "" stands for the one map of all.
    """

    name: str
    picture: str
    maps: tuple[tuple[str, str], ...]


def find(place: Place) -> Layout | None:
    """The layout at a path: its root, or the frames in it (`JPEGImages/480p`).

    ConfigError where there are several resolutions.
    """
    for frames, maps in _FOLDERS:
        if (place / frames).is_dir() and (place / maps).is_dir():
            found = list(_resolutions(place, place / frames, place / maps))
            if len(found) > 1:
                names = ", ".join(str(each.frames) for each in found)
                raise ConfigError(f"{place} has {len(found)} resolutions: name one of {names}")
            return found[0] if found else None
        if place.name == frames or place.parent.name == frames:
            root = place.parent if place.name == frames else place.parent.parent
            found = list(_resolutions(root, root / frames, root / maps))
            return next((each for each in found if each.frames == place), None)
    return None


def _resolutions(root: Place, frames: Place, maps: Place) -> Iterator[Layout]:
    """The folders of videos with maps: these two themselves, or those in them."""
    shared = [name for name in _folders(frames) if (maps / name).is_dir()]
    if any(_files(frames / name) for name in shared):
        yield Layout(root, frames, maps)
        return
    for name in shared:
        videos = _folders(frames / name)
        if any((maps / name / video).is_dir() for video in videos):
            yield Layout(root, frames / name, maps / name)


class FrameFolders:
    """The frames that have a map, sorted by video and name; the others are noted."""

    def __init__(
        self, layout: Layout, config: VideoConfig, listed: Sequence[str] | None = None
    ) -> None:
        self._layout, self._config = layout, config
        self.findings: list[Finding] = []
        there = _folders(layout.frames)
        if listed is not None:
            missing = [name for name in listed if name not in set(there)]
            self._note(missing, "is listed, but is no folder of frames")
            there = [name for name in there if name in set(listed)]
        without: list[str] = []
        self._frames = [each for video in there for each in self._of_video(video, without)]
        self._note(without, f"has no map in {layout.maps.name}/")
        if not self._frames:
            raise DataError(
                f"{layout.frames} has no frame with a map in {layout.maps}: give each "
                "VIDEO/NAME.jpg its VIDEO/NAME.png"
            )

    def __len__(self) -> int:
        return len(self._frames)

    def name(self, index: int) -> str:
        return self._frames[index].name

    def read(self, index: int) -> Record:
        frame, noted = self._frames[index], []
        path = self._layout.frames / frame.picture
        picture = pictures.read(path, "upright", self._config.sixteen_bit, noted)
        masks = self._masks(frame, picture)
        return Record(frame.name, picture, {"masks": masks}, noted)

    def digest(self) -> str:
        """Of the maps of a thousand frames, spread evenly."""
        chosen = [self._frames[i] for i in sampled(self)]
        maps = [self._layout.maps / name for frame in chosen for _, name in frame.maps]
        return f"maps {paired.digest(maps)}"

    def _of_video(self, video: str, without: list[str]) -> Iterator[_Frame]:
        maps = self._maps(video)
        for file in _files(self._layout.frames / video):
            name = f"{video}/{PurePosixPath(file).stem}"
            if name in maps:
                yield _Frame(name, f"{video}/{file}", tuple(maps[name]))
            else:
                without.append(name)

    def _maps(self, video: str) -> Mapping[str, list[tuple[str, str]]]:
        """Object and file of each map, by the name of its frame."""
        folder = self._layout.maps / video
        if not folder.is_dir():
            return {}
        found: dict[str, list[tuple[str, str]]] = {}
        objects = ("", *_folders(folder))
        if len(objects) > _MOST_OBJECTS:
            raise DataError(
                f"{folder} has {len(objects) - 1} folders of objects, but at most "
                f"{_MOST_OBJECTS} are read"
            )
        for each in objects:
            for file in _files(folder / each):
                path = PurePosixPath(video, each, file)
                if path.suffix.lower() == ".png":
                    found.setdefault(f"{video}/{path.stem}", []).append((each, str(path)))
        return found

    def _masks(self, frame: _Frame, picture: pictures.Picture) -> MaskSet:
        """The objects that are visible in a frame."""
        size = (picture.height, picture.width)
        if len(frame.maps) * size[0] * size[1] > _MAX_LAYER_BYTES:
            raise DataError(f"{frame.name} has {len(frame.maps)} maps, which are too many to read")
        shared, layers, regions = None, [], []
        for each, file in frame.maps:
            path = self._layout.maps / file
            with decode.named(path):
                values = _values(path, frame.name, picture)
            if not each:
                shared = NumberedMasks(values)
            elif (inside := values != 0).any():
                identity = int(each) if each.isascii() and each.isdigit() else each
                regions.append(Region(len(layers), 1, Object(identity)))
                layers.append(inside.view(np.uint8))
        if shared is None:
            return LayeredMasks(np.stack(layers or [np.zeros(size, np.uint8)]), regions)
        if regions:
            raise DataError(f"{frame.name} has a map of all objects, and maps of single ones too")
        return shared

    def _note(self, names: Sequence[str], words: str) -> None:
        if names:
            more = f" (the first of {len(names)})" if len(names) > 1 else ""
            text = f"{names[0]} {words}{more}"
            self.findings.append(Finding("pictures_left_out", text, len(names)))


def _values(path: Place, name: str, picture: pictures.Picture) -> Integer[np.ndarray, "H W"]:
    """The numbers of a map; what is void in it is no object. Its size is checked first."""
    data = decode.read_file(path)
    head = decode.header(data)
    paired.require_size(name, "map", (head.height, head.width), picture)
    if head.mode in ("RGB", "RGBA", "LA"):  # some maps of DAVIS 2016 have three equal channels
        colours = decode.pixels(data, head)
        if (colours != colours[..., :1]).any():
            raise DataError("its pixels are colours, but a map of objects has one number a pixel")
        return colours[..., 0]
    values = decode.numbers(data, head)
    return np.where(values == _VOID, 0, values) if head.mode == "P" else values


def _folders(folder: Place) -> list[str]:
    """The names of the folders in a folder, sorted; hidden ones are not read."""
    return sorted(name for name in _entries(folder)[0] if not name.startswith("."))


def _files(folder: Place) -> list[str]:
    """The names of the pictures in a folder, sorted."""
    names = (name for name in _entries(folder)[1] if not name.startswith("."))
    return sorted(x for x in names if pictures.other_ending(PurePosixPath(x)) is None)


def _entries(folder: Place) -> tuple[list[str], list[str]]:
    """The names of the folders and of the files in a folder."""
    if isinstance(folder, StorePath):
        return folder.listed()

    def attempt() -> tuple[list[str], list[str]]:
        with os.scandir(folder) as found:
            there = list(found)
        return [x.name for x in there if x.is_dir()], [x.name for x in there if x.is_file()]

    return files.read(folder, attempt, "check the path")
