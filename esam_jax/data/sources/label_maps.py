"""Pictures with maps of object numbers: `images/NAME.*`, and `instances/NAME.png` for each."""

import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from esam_jax import files
from esam_jax.config import LabelMapsConfig
from esam_jax.data import decode, pictures
from esam_jax.data.findings import Finding
from esam_jax.data.mask_sets import NumberedMasks
from esam_jax.data.records import Record, sampled
from esam_jax.errors import DataError, MissingError

_IMAGES, _MAPS = "images", "instances"


def open(config: LabelMapsConfig, options: str = "") -> "LabelMaps":
    """The pictures of `images/` that have a map; those that have none are noted."""
    return LabelMaps(config)


def detects(path: str) -> LabelMapsConfig | None:
    """A folder with `images/` and `instances/` in it."""
    place = Path(path).expanduser()
    is_ours = (place / _IMAGES).is_dir() and (place / _MAPS).is_dir()
    return LabelMapsConfig(path=path) if is_ours else None


class LabelMaps:
    """The pictures below `images/`, each with the objects of its map."""

    def __init__(self, config: LabelMapsConfig) -> None:
        self._config, self._root = config, Path(str(config.path)).expanduser()
        listed = pictures.list_pictures(self._root / _IMAGES)
        self._names = [name for name in listed.names if self._map(name).is_file()]
        without = [name for name in listed.names if not self._map(name).is_file()]
        if not self._names:
            raise DataError(
                f"{self._root} has no picture in {_IMAGES}/ with a map in {_MAPS}/: give each "
                f"{_IMAGES}/NAME.jpg its {_MAPS}/NAME.png"
            )
        self.findings: Sequence[Finding] = ()
        if without:
            more = f" (the first of {len(without)})" if len(without) > 1 else ""
            text = f"{_IMAGES}/{without[0]} has no map {self._map(without[0]).name} in {_MAPS}/"
            self.findings = (Finding("pictures_left_out", f"{text}{more}", len(without)),)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return self._names[index]

    def read(self, index: int) -> Record:
        name, noted = self._names[index], []
        path = self._root / _IMAGES / name
        picture = pictures.read(path, "upright", self._config.sixteen_bit, noted)
        numbers = decode.read_numbers(self._map(name))
        if numbers.shape != (picture.height, picture.width):
            sizes = [" x ".join(map(str, each)) for each in (numbers.shape, _size(picture))]
            raise DataError(f"{name}: its map is {sizes[0]}, but the picture is {sizes[1]}")
        return Record(name, picture, {"masks": NumberedMasks(numbers)}, noted)

    def digest(self) -> str:
        """Of a thousand maps, spread evenly."""
        chosen = [self._map(self._names[i]) for i in sampled(self)]
        found = hashlib.sha256()
        for path in chosen:
            try:
                found.update(hashlib.sha256(files.read(path, path.read_bytes, "")).digest())
            except MissingError:  # its picture is left out, if it is met
                found.update(bytes(32))
        return f"maps of {len(chosen)} {found.hexdigest()[:12]}"

    def _map(self, name: str) -> Path:
        return self._root / _MAPS / PurePosixPath(name).with_suffix(".png")


def _size(picture: pictures.Picture) -> tuple[int, int]:
    return picture.height, picture.width
