"""COCO instance annotations: one json for all pictures, polygons or run lengths for each object."""

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from esam_jax import files
from esam_jax.config import CocoConfig
from esam_jax.data import pictures
from esam_jax.data.mask_sets import CocoMasks
from esam_jax.data.records import Record
from esam_jax.data.sources.annotations import field, segmentations
from esam_jax.errors import DataError, MissingError

_MAX_JSON_BYTES = 2**31


def open(config: CocoConfig) -> "CocoInstances":
    """The pictures of the json that the path of the config is, or lies beside."""
    return CocoInstances(Path(str(config.path)).expanduser())


def detects(path: str) -> CocoConfig | None:
    """A json, or a folder of pictures with an instance json beside or in it."""
    place = Path(path).expanduser()
    if place.is_file() and place.suffix == ".json":
        return CocoConfig(path=path)
    if not place.is_dir():
        return None
    try:
        find_json(place)
    except MissingError:
        return None
    return CocoConfig(path=path)


class CocoInstances:
    """The pictures of a COCO json that have at least one object; crowds do not count.

    Annotations live in the frame of the stored pixels, so EXIF rotation is not applied.
    """

    def __init__(self, path: Path) -> None:
        self._json = find_json(path)
        content = files.read_json(self._json, max_bytes=_MAX_JSON_BYTES, error=DataError)
        images = field(content, "images", list, str(self._json))
        annotations = field(content, "annotations", list, str(self._json))
        self._objects: dict[int, list[Any]] = {}
        for number, annotation in enumerate(annotations):
            owner = field(annotation, "image_id", int, f"{self._json}: annotation {number}")
            if not annotation.get("iscrowd"):
                self._objects.setdefault(owner, []).append(annotation)
        entries = {}
        for number, image in enumerate(images):
            identity, name = _identity(image, f"{self._json}: image {number}")
            if identity in entries:
                raise DataError(f"{self._json}: the image id {identity} occurs twice")
            entries[identity] = (name, image)
        self._images = [entry for identity, entry in entries.items() if identity in self._objects]
        if not self._images:
            raise DataError(f"{self._json} has no picture with an object that is not a crowd")
        self._root = _picture_folder(self._json, self._images[0][0])

    def __len__(self) -> int:
        return len(self._images)

    def name(self, index: int) -> str:
        return self._images[index][0]

    def read(self, index: int) -> Record:
        name, entry = self._images[index]
        picture = pictures.read(self._root / name, orientation="stored")
        height, width = picture.height, picture.width
        declared = (field(entry, "height", int, name), field(entry, "width", int, name))
        if declared != (height, width):
            raise DataError(f"{name} is {height} x {width}, but {self._json.name} says {declared}")
        found = segmentations(self._objects[entry["id"]], (list, Mapping), name)
        return Record(name, picture, {"masks": CocoMasks(name, found, height, width)})


def find_json(path: Path) -> Path:
    """The instance json that `path` is, or that lies beside or in the image folder `path`."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise MissingError(f"{path} is neither a json file nor a folder")
    path = path.resolve()
    name = f"instances_{path.name}.json"
    candidates = (path.parent / name, path.parent / "annotations" / name, path / name)
    for candidate in (*candidates, *sorted(path.glob("instances_*.json"))):
        if candidate.is_file():
            return candidate
    raise MissingError(f"no {name} beside {path}; give the path of the json itself")


def _picture_folder(json: Path, first: str) -> Path:
    """Where the pictures of a json are; COCO itself has annotations/ and, beside it, val2017/."""
    split = json.stem.removeprefix("instances_")
    parent, above = json.parent, json.resolve().parent.parent
    folders = (parent / split, above / split, parent / "images", above / "images", parent)
    for folder in folders:
        if os.path.isfile(folder / first):  # False for a name that no file can have
            return folder
    raise MissingError(f"{first} of {json} is in none of {', '.join(map(str, folders))}")


def _identity(image: Any, where: str) -> tuple[int, str]:
    identity, name = field(image, "id", int, where), field(image, "file_name", str, where)
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or not name:
        raise DataError(f"{where} is {name!r}, but must be a name below the picture folder")
    return identity, name
