"""Procedural scenes as a source: pictures with all their visible objects, and no file.

The class of a scene is the outline of its main object, the one of which most is visible.
"""

from esam_jax.config import ScenesConfig
from esam_jax.data.labels import Label
from esam_jax.data.mask_sets import LabelledMasks
from esam_jax.data.pictures import Pixels
from esam_jax.data.records import OnDemand, Record
from esam_jax.data.sources import scene_painter
from esam_jax.data.sources.scene_painter import OUTLINES, Scene
from esam_jax.errors import DataError


def open(config: ScenesConfig, options: str = "") -> "Scenes":
    """The scenes of one split."""
    return Scenes(config)


def detects(path: str) -> ScenesConfig | None:
    """The held-out scenes, for the word "scenes"."""
    return ScenesConfig(split="heldout") if path == "scenes" else None


class Scenes:
    """Procedural scenes with all their visible objects, and their class."""

    def __init__(self, config: ScenesConfig) -> None:
        self._config = config
        self.classes = OUTLINES

    def __len__(self) -> int:
        return self._config.scenes

    def name(self, index: int) -> str:
        return f"{self._config.split}/{self._config.first + index}"

    def read(self, index: int) -> Record:
        config, name = self._config, self.name(index)
        drawn = scene_painter.scene(config.first + index, config.scene_px, split=config.split)
        makers = {
            "masks": lambda: LabelledMasks(drawn.labels),
            "label": lambda: _label(drawn, name),
        }
        return Record(name, Pixels(drawn.image), OnDemand(makers))


def _label(scene: Scene, name: str) -> Label:
    outline = scene.main_outline()
    if outline is None:
        raise DataError(f"{name} has no visible object, and no class: leave it out")
    return Label(outline, OUTLINES[outline])
