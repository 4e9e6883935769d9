"""Pictures with maps of object numbers: `images/NAME.*`, and `instances/NAME.png` for each."""

from esam_jax import places
from esam_jax.config import LabelMapsConfig
from esam_jax.data import decode
from esam_jax.data.mask_sets import NumberedMasks
from esam_jax.data.records import Record
from esam_jax.data.sources import paired

_IMAGES, _MAPS = "images", "instances"


def open(config: LabelMapsConfig, options: str = "") -> "LabelMaps":
    """The pictures of `images/` that have a map; those that have none are noted."""
    return LabelMaps(config)


def detects(path: str) -> LabelMapsConfig | None:
    """A folder with `images/` and `instances/` in it."""
    place = places.place(path)
    is_ours = (place / _IMAGES).is_dir() and (place / _MAPS).is_dir()
    return LabelMapsConfig(path=path) if is_ours else None


class LabelMaps(paired.Paired):
    """The pictures below `images/`, each with the objects of its map."""

    def __init__(self, config: LabelMapsConfig) -> None:
        root = places.place(str(config.path))
        folders = paired.Folders(root / _IMAGES, root / _MAPS, ".png")
        super().__init__(paired.find(folders, None, "map"))
        self._config = config

    def read(self, index: int) -> Record:
        name, noted = self.name(index), []
        picture = self._pairs.read(index, self._config, noted)
        numbers = decode.read_numbers(self._pairs.other(index))
        paired.require_size(name, "map", numbers.shape, picture)
        return Record(name, picture, {"masks": NumberedMasks(numbers)}, noted)

    def digest(self) -> str:
        """Of a thousand maps, spread evenly."""
        return f"maps {self._pairs.digest()}"
