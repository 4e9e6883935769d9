"""The pictures of a study: procedural scenes of each seed, or one's own in two parts.

Of one's own, a part is held out by name (`tasks/own_data.py`), the same for all seeds; a seed draws
which of the others are labelled. Of scenes, every seed has its own.
"""

import dataclasses
from pathlib import Path

import numpy as np

from esam_jax.config import ScenesConfig, SourceConfig
from esam_jax.data import id_lists, sources
from esam_jax.errors import ConfigError, DataError
from esam_jax.study.design import SCENES, Design, first_scene
from esam_jax.tasks import own_data
from esam_jax.words import counted

_FEWEST = 10  # pictures that are worth a comparison


def labelled(design: Design, seed: int, number: int | None, workdir: Path) -> SourceConfig:
    """What is fine-tuned on: all labelled pictures of a seed, or so many of them."""
    if design.data is None:
        scenes = SCENES if number is None else number
        return ScenesConfig(first=first_scene(seed), scenes=scenes)
    train = _part(design.data, "train")
    if number is None:
        return train
    source = sources.open_source(train, "data.", frozenset({"masks"}))
    _require(design.data, number, len(source))
    drawn = np.random.default_rng(seed).permutation(len(source))[:number]
    file = workdir / f"seed_{seed}" / f"labelled_{number}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    id_lists.write(file, [source.name(int(i)) for i in sorted(drawn)])
    every = dataclasses.replace(train, part="all", heldout=0)  # a list counts before its parts
    return dataclasses.replace(every, ids=str(file.absolute()))


def unlabelled(design: Design, seed: int) -> SourceConfig:
    """What is pretrained on: all pictures of a seed that are not held out."""
    if design.unlabelled is not None:
        return sources.detect(design.unlabelled)
    return labelled(design, seed, None, Path())


def held_out(design: Design, seed: int) -> SourceConfig:
    """What is measured on."""
    if design.data is None:
        return ScenesConfig(split="heldout", first=first_scene(seed), scenes=SCENES)
    return _part(design.data, "heldout")


def check(design: Design) -> None:
    """Opens one's own pictures: MissingError, DataError or ConfigError for what is not there,
    has no masks or is too little, also for `labelled`: before anything is trained."""
    if design.unlabelled is not None:
        sources.open_source(sources.detect(design.unlabelled), "unlabelled.")
    if design.data is None:
        return
    count = _count(design.data)
    if count < _FEWEST:
        raise DataError(
            f"{design.data} holds {counted(count, 'picture')}, of which some are held out: give "
            f"{_FEWEST} or more"
        )
    if design.labelled:
        train = sources.open_source(_part(design.data, "train"), "data.", frozenset({"masks"}))
        _require(design.data, max(design.labelled), len(train))


def _require(path: str, number: int, left: int) -> None:
    if number > left:
        raise ConfigError(
            f"labelled has {number}, but {path} leaves {counted(left, 'picture')} "
            "to train on: name fewer"
        )


def _part(path: str, part: str) -> SourceConfig:
    heldout = own_data.held_out(_count(path))
    return dataclasses.replace(sources.detect(path), part=part, heldout=heldout)


def _count(path: str) -> int:
    found = sources.detect(path)
    if isinstance(found, ScenesConfig):
        raise ConfigError("data is 'scenes', which a study draws on its own: leave it out")
    return len(sources.open_source(found, "data.", frozenset({"masks"})))
