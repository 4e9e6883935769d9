"""Pictures with maps of class numbers: ADE20K's layout, and folders like it.

Regions of a class are no objects, so there are no masks. Parts of objects, which the complete
ADE20K has in files of their own, are not read.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from esam_jax import files, places
from esam_jax.config import SemanticMapsConfig
from esam_jax.data import decode
from esam_jax.data.labels import SemanticMap
from esam_jax.data.records import Record
from esam_jax.data.sources import paired
from esam_jax.errors import DataError
from esam_jax.places import Place

_IMAGES = "images"
_MAPS = ("annotations", "labels", "semantic")
_CLASSES, _ADE_CLASSES = "classes.json", "objectInfo150.txt"
_MAX_BYTES = 2**22  # of a file with names
_MAX_CLASSES = 2**16
_USUAL_VOID = 255  # of maps that come without names: Pascal VOC's and Cityscapes' value
_VOID_NAMES = ("unlabeled", "unlabelled", "void", "ignore")

_Classes = tuple[Mapping[int, str], frozenset[int]]  # names, and values that are no class


def open(config: SemanticMapsConfig, options: str = "") -> "SemanticMaps":
    """The pictures of `images/` that have a map; those that have none are noted."""
    return SemanticMaps(config)


def detects(path: str) -> SemanticMapsConfig | None:
    """A folder with `images/` and, in one of three folders beside it, a PNG of the same name."""
    found = any(each.hold_a_pair() for each in _layouts(places.place(path)))
    return SemanticMapsConfig(path=path) if found else None


class SemanticMaps(paired.Paired):
    """The pictures below `images/`, each with the class of every pixel."""

    def __init__(self, config: SemanticMapsConfig) -> None:
        root = places.place(str(config.path))
        layouts = list(_layouts(root))
        folders = next((each for each in layouts if each.hold_a_pair()), layouts[0])
        super().__init__(paired.find(folders, config.split, "map"))
        self._config = config
        self.names, self.void = _classes(root)
        self._known = np.array(sorted({*self.names, *self.void}), np.int64)

    def read(self, index: int) -> Record:
        name, noted = self.name(index), []
        picture = self._pairs.read(index, self._config, noted)
        values = decode.read_numbers(self._pairs.other(index))
        paired.require_size(name, "map", values.shape, picture)
        if self.names:
            unknown = np.setdiff1d(values, self._known)
            if unknown.size:
                raise DataError(
                    f"{name}: its map holds the value {unknown[0]}, which is neither a class nor "
                    f"to be ignored: name it in {_CLASSES}"
                )
        return Record(
            name, picture, {"semantic": SemanticMap(values, self.names, self.void)}, noted
        )

    def digest(self) -> str:
        """Of a thousand maps, spread evenly."""
        return f"maps {self._pairs.digest()}"


def _layouts(root: Place) -> Sequence[paired.Folders]:
    return [paired.Folders(root / _IMAGES, root / maps, ".png") for maps in _MAPS]


def _classes(root: Place) -> _Classes:
    """What the values mean, by `classes.json` or ADE20K's own list; DataError for a bad file."""
    if (root / _CLASSES).is_file():
        path = root / _CLASSES
        content = files.read_json(path, max_bytes=_MAX_BYTES, error=DataError)
        return _listed(path, content) if "classes" in content else _numbered(path, content)
    if (root / _ADE_CLASSES).is_file():
        return _of_ade(root / _ADE_CLASSES), frozenset({0})
    return {}, frozenset({_USUAL_VOID})


def _listed(path: Place, content: Mapping[str, Any]) -> _Classes:
    """{"classes": [name of 0, name of 1, ...], "ignore_index": value}"""
    classes, void = content["classes"], content.get("ignore_index")
    if not isinstance(classes, list) or not all(isinstance(each, str) for each in classes):
        raise DataError(f"{path}: classes must be a list of names, the first of value 0")
    if void is not None and (type(void) is not int or not 0 <= void < _MAX_CLASSES):
        raise DataError(f"{path}: ignore_index is {str(void)[:30]}, but must be a value of maps")
    names = {value: name for value, name in enumerate(classes) if value != void}
    return names, frozenset() if void is None else frozenset({void})


def _numbered(path: Place, content: Mapping[str, Any]) -> _Classes:
    """{"0": name, "1": name, ...}, of which names such as "unlabeled" are void."""
    names: dict[int, str] = {}
    for key, name in content.items():
        number = _number(key)
        if number is None or not isinstance(name, str):
            raise DataError(
                f'{path} holds {key[:30]!r}: {str(name)[:30]!r}, but must give {{"value": "name"}}'
                ' for each class, or {"classes": [names], "ignore_index": value}'
            )
        names[number] = name
    void = frozenset(number for number, name in names.items() if name.lower() in _VOID_NAMES)
    return {number: name for number, name in names.items() if number not in void}, void


def _of_ade(path: Place) -> Mapping[int, str]:
    """Lines of "number, share, pictures, pictures, stuff, name", after a head, between tabs."""

    def attempt() -> bytes:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES)

    names = {}
    lines = files.read(path, attempt, "check the path").decode(errors="replace").splitlines()
    for place, line in enumerate(lines[1:], 2):
        cells = [cell.strip() for cell in line.split("\t")]
        number = _number(cells[0])
        if number is None or len(cells) < 2:
            raise DataError(f"{path}, line {place}: {line[:60]!r} is not a number and a name")
        names[number] = cells[-1]
    return names


def _number(text: str) -> int | None:
    """The value of a map that is written down."""
    is_one = text.isascii() and text.isdigit() and len(text) <= 5
    return int(text) if is_one and int(text) < _MAX_CLASSES else None
