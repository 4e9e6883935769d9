"""Procedural scenes as a source: pictures with all their visible objects, and no file."""

from esam_jax.config import ScenesConfig
from esam_jax.data.mask_sets import LabelledMasks
from esam_jax.data.pictures import Pixels
from esam_jax.data.records import Record
from esam_jax.data.sources import scene_painter


def open(config: ScenesConfig, options: str = "") -> "Scenes":
    """The scenes of one split."""
    return Scenes(config)


def detects(path: str) -> ScenesConfig | None:
    """The held-out scenes, for the word "scenes"."""
    return ScenesConfig(split="heldout") if path == "scenes" else None


class Scenes:
    """Procedural scenes with all their visible objects."""

    def __init__(self, config: ScenesConfig) -> None:
        self._config = config

    def __len__(self) -> int:
        return self._config.scenes

    def name(self, index: int) -> str:
        return f"{self._config.split}/{index}"

    def read(self, index: int) -> Record:
        config = self._config
        image, labels = scene_painter.draw(index, config.scene_px, split=config.split)
        return Record(self.name(index), Pixels(image), {"masks": LabelledMasks(labels)})
