"""Pictures in folders, without annotations: ImageNet's layout, or any other nesting."""

from pathlib import Path

from esam_jax.config import ImageFolderConfig
from esam_jax.data import decode, pictures
from esam_jax.data.records import Record
from esam_jax.errors import DataError


def open(config: ImageFolderConfig) -> "ImageFolder":
    """Every picture below the path of the config."""
    return ImageFolder(Path(str(config.path)).expanduser())


def detects(path: str) -> ImageFolderConfig | None:
    """Any folder that no other source reads."""
    return ImageFolderConfig(path=path) if Path(path).expanduser().is_dir() else None


class ImageFolder:
    """Every picture below a folder, by relative path. Classes are folders, and are not used."""

    def __init__(self, path: Path) -> None:
        self._root, self._names = path, pictures.list_pictures(path)
        if not self._names:
            raise DataError(f"{path} holds no {', '.join(decode.SUFFIXES)} picture at any depth")

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return self._names[index]

    def read(self, index: int) -> Record:
        name = self._names[index]
        return Record(name, pictures.read(self._root / name))
