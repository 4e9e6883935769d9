"""The door to every kind of data: a `SourceConfig` becomes a `Source` of records."""

from pathlib import Path

from esam_jax.config import (
    CocoConfig,
    ImageFolderConfig,
    Sa1bConfig,
    ScenesConfig,
    SourceConfig,
)
from esam_jax.data.records import Source
from esam_jax.data.sources import coco
from esam_jax.data.sources.coco import CocoInstances
from esam_jax.data.sources.image_folder import ImageFolder
from esam_jax.data.sources.sa1b import Sa1b
from esam_jax.data.sources.scenes import Scenes
from esam_jax.errors import ConfigError, MissingError


def open_source(config: SourceConfig) -> Source:
    """The source a config names.

    Raises MissingError or DataError when there is nothing there to read, before any picture is.
    """
    if isinstance(config, ScenesConfig):
        return Scenes(config)
    if config.path is None:
        raise ConfigError(f"source.path is None, but the source {config.kind!r} reads one: name it")
    kinds = {"image_folder": ImageFolder, "coco": CocoInstances, "sa1b": Sa1b}
    return kinds[config.kind](Path(config.path).expanduser())


def detect(path: str) -> SourceConfig:
    """The source a user means by a path, or by the word "scenes" (the held-out ones)."""
    if path == "scenes":
        return ScenesConfig(split="heldout")
    place = Path(path).expanduser()
    if place.is_file() and place.suffix == ".json":
        return CocoConfig(path=path)
    if not place.is_dir():
        raise MissingError(f"{path} is neither a folder, nor a COCO json, nor the word scenes")
    # SA-1B unpacks flat, or into one folder for each of its archives.
    if next(place.glob("sa_*.json"), None) or next(place.glob("*/sa_*.json"), None):
        return Sa1bConfig(path=path)
    try:
        coco.find_json(place)
    except MissingError:
        return ImageFolderConfig(path=path)
    return CocoConfig(path=path)
