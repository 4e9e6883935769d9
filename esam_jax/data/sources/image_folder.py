"""Pictures in folders, without annotations: ImageNet's layout, or any other nesting."""

import warnings
from pathlib import Path

from esam_jax.config import ImageFolderConfig
from esam_jax.data import pictures
from esam_jax.data.records import Record
from esam_jax.errors import DataError


def open(config: ImageFolderConfig, options: str = "") -> "ImageFolder":
    """Every picture below the path of the config; a UserWarning counts other files."""
    return ImageFolder(config)


def detects(path: str) -> ImageFolderConfig | None:
    """Any folder that no other source reads; a UserWarning where it holds json all the same."""
    place = Path(path).expanduser()
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
    """Every picture below a folder, by relative path. Classes are folders, and are not used."""

    def __init__(self, config: ImageFolderConfig) -> None:
        self._config, self._root = config, Path(str(config.path)).expanduser()
        found = pictures.list_pictures(self._root)
        if not found.names:
            raise DataError(pictures.none_of(self._root, found.left_out))
        pictures.warn_of(self._root, found.left_out)
        self._names = found.names

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return self._names[index]

    def read(self, index: int) -> Record:
        name, noted = self._names[index], []
        picture = pictures.read(self._root / name, "upright", self._config.sixteen_bit, noted)
        return Record(name, picture, {}, noted)
