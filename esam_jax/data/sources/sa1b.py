"""SA-1B's layout: `sa_<id>.jpg` with `sa_<id>.json` beside it, masks as compressed run lengths."""

from pathlib import Path, PurePosixPath

from esam_jax import files
from esam_jax.config import Sa1bConfig
from esam_jax.data import pictures
from esam_jax.data.mask_sets import CocoMasks
from esam_jax.data.records import Record
from esam_jax.data.sources.annotations import field, segmentations
from esam_jax.errors import DataError

_MAX_JSON_BYTES = 2**26  # genuine files stay below a megabyte


def open(config: Sa1bConfig) -> "Sa1b":
    """Every picture below the path of the config whose name is one of SA-1B's."""
    return Sa1b(Path(str(config.path)).expanduser())


def detects(path: str) -> Sa1bConfig | None:
    """A folder as SA-1B unpacks: flat, or into one folder for each of its archives."""
    place = Path(path).expanduser()
    if not place.is_dir():
        return None
    found = next(place.glob("sa_*.json"), None) or next(place.glob("*/sa_*.json"), None)
    return Sa1bConfig(path=path) if found else None


class Sa1b:
    """Every `sa_*.jpg` at any depth below a folder, in the frame of its stored pixels."""

    def __init__(self, path: Path) -> None:
        self._root = path
        self._names = [name for name in pictures.list_pictures(path) if is_sa1b(name)]
        if not self._names:
            raise DataError(f"{path} holds no sa_*.jpg at any depth")

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        return self._names[index]

    def read(self, index: int) -> Record:
        name = self._names[index]
        path = self._root / name
        content = files.read_json(
            path.with_suffix(".json"), max_bytes=_MAX_JSON_BYTES, error=DataError
        )
        annotations = field(content, "annotations", list, name)
        found = segmentations(annotations, dict, name)
        picture = pictures.read(path, orientation="stored")
        masks = CocoMasks(name, found, picture.height, picture.width)
        return Record(name, picture, {"masks": masks})


def is_sa1b(name: str) -> bool:
    """Whether a picture's name is one of SA-1B's."""
    parts = PurePosixPath(name)
    return parts.name.startswith("sa_") and parts.suffix == ".jpg"
