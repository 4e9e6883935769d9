"""Pictures in folders, without masks: ImageNet's layout, or any other nesting."""

import warnings
from collections.abc import Mapping, Sequence

from esam_jax import places
from esam_jax.config import ImageFolderConfig
from esam_jax.data import class_names, pictures, sources
from esam_jax.data.labels import Label
from esam_jax.data.names import Names
from esam_jax.data.records import Record
from esam_jax.errors import DataError


def open(config: ImageFolderConfig, options: str = "") -> "ImageFolder":
    """Every picture below the path of the config; a UserWarning counts other files.

    DataError where there is none; it names the kind of source that reads such a folder.
    """
    return ImageFolder(config, options)


def detects(path: str) -> ImageFolderConfig | None:
    """Any folder that no other source reads; a UserWarning where it holds json all the same."""
    place = places.place(path)
    if not place.is_dir():
        return None
    json = next(place.rglob("*.json"), None)
    if json is not None:
        warnings.warn(
            f"{path} is read as pictures without masks: {json.relative_to(place)} is neither a "
            "COCO json nor one of SA-1B's (sa_*.json); if it holds masks, convert it to COCO",
            UserWarning,
            stacklevel=2,
        )
    return ImageFolderConfig(path=path)


class ImageFolder:
    """Every picture below a folder, by relative path.

    The class of a picture is the first folder of its name, and classes are numbered in the order of
    their names, as in ImageNet; a folder without pictures keeps its number. There are none where a
    picture lies in no folder.
    """

    def __init__(self, config: ImageFolderConfig, options: str = "") -> None:
        self._config, self._root = config, places.place(str(config.path))
        found = pictures.list_pictures(self._root)
        if not found.names:
            kind = sources.more_particular(config)
            remedy = f", or write --{options}kind {kind}, which reads it" if kind else ""
            raise DataError(pictures.none_of(self._root, found.left_out) + remedy)
        pictures.warn_of(self._root, found.left_out)
        self._names = Names(found.names)
        self.lacks: Mapping[str, str] = {}
        self.classes: Sequence[str] = ()
        outside = next((name for name in found.names if "/" not in name), None)
        if outside is None:
            self.classes = found.folders
            class_names.warn_of_empty(self._root, self.classes, map(_first, found.names))
        else:
            remedy = "give each class a folder of its own, with all of its pictures"
            self.lacks = {"label": f"{outside} lies in no folder below {self._root}: {remedy}"}
        self._labels = {name: Label(index, name) for index, name in enumerate(self.classes)}

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return self._names[index]

    def read(self, index: int) -> Record:
        name, noted = self._names[index], []
        picture = pictures.read(self._root / name, "upright", self._config.sixteen_bit, noted)
        labels = {"label": self._labels[_first(name)]} if self._labels else {}
        return Record(name, picture, labels, noted)


def _first(name: str) -> str:
    return name.split("/", 1)[0]
