"""Procedural scenes as a source: pictures with all their visible objects, and no file."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Integer, UInt8

from esam_jax.config import ScenesConfig
from esam_jax.data.records import Record
from esam_jax.data.sources import scene_painter


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
        return Record(self.name(index), image, LabelledMasks(labels))


@dataclasses.dataclass(frozen=True)
class LabelledMasks:
    """Disjoint masks in one label map: mask i is where the label is i + 1."""

    labels: UInt8[np.ndarray, "H W"]

    def __len__(self) -> int:
        return int(self.labels.max())

    def decode(self, indices: Sequence[int]) -> Bool[np.ndarray, "X H W"]:
        return self.labels == np.asarray(indices, np.uint8)[:, None, None] + np.uint8(1)

    def sample(
        self,
        indices: Sequence[int],
        rows: Integer[np.ndarray, " h"],
        columns: Integer[np.ndarray, " w"],
    ) -> Bool[np.ndarray, "X h w"]:
        return LabelledMasks(self.labels.take(rows, 0).take(columns, 1)).decode(indices)
