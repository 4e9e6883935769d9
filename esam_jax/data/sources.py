"""The door to every kind of data: a `SourceConfig` becomes a `Source` of records."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Integer, UInt8

from esam_jax.config import SourceConfig
from esam_jax.data import coco, scenes
from esam_jax.data.coco import CocoInstances
from esam_jax.data.image_folder import ImageFolder
from esam_jax.data.records import Record, Source
from esam_jax.data.sa1b import Sa1b
from esam_jax.errors import ConfigError, MissingError


def open_source(config: SourceConfig) -> Source:
    """The source a config names.

    Raises MissingError or DataError when there is nothing there to read, before any picture is.
    """
    if config.kind == "scenes":
        return Scenes(config)
    if config.path is None:
        raise ConfigError(f"source.path is None, but the source {config.kind!r} reads one: name it")
    kinds = {"image_folder": ImageFolder, "coco": CocoInstances, "sa1b": Sa1b}
    return kinds[config.kind](Path(config.path).expanduser())


def detect(path: str) -> SourceConfig:
    """The source a user means by a path, or by the word "scenes" (the held-out ones)."""
    if path == "scenes":
        return SourceConfig(kind="scenes", split="heldout")
    place = Path(path).expanduser()
    if place.is_file() and place.suffix == ".json":
        return SourceConfig(kind="coco", path=path)
    if not place.is_dir():
        raise MissingError(f"{path} is neither a folder, nor a COCO json, nor the word scenes")
    # SA-1B unpacks flat, or into one folder for each of its archives.
    if next(place.glob("sa_*.json"), None) or next(place.glob("*/sa_*.json"), None):
        return SourceConfig(kind="sa1b", path=path)
    try:
        coco.find_json(place)
    except MissingError:
        return SourceConfig(kind="image_folder", path=path)
    return SourceConfig(kind="coco", path=path)


class Scenes:
    """Procedural scenes with all their visible objects."""

    def __init__(self, config: SourceConfig) -> None:
        self._config = config

    def __len__(self) -> int:
        return self._config.scenes

    def name(self, index: int) -> str:
        return f"{self._config.split}/{index}"

    def read(self, index: int) -> Record:
        config = self._config
        image, labels = scenes.draw(index, config.scene_px, split=config.split)
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
