"""Views for classification: an augmented crop with its class, and the central one to measure on."""

import dataclasses
import math

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from esam_jax.config import ClassifiedConfig, ViewConfig
from esam_jax.data import class_names, records
from esam_jax.data.labels import Label
from esam_jax.data.records import Record, Source
from esam_jax.data.views import crop, rand_augment
from esam_jax.errors import ConfigError

# Of random erasing (arXiv:1708.04896) as timm has it: shares of the area, and of height to width.
_AREAS = (0.02, 1 / 3)
_RATIO = 0.3
_TRIES = 10
_CENTRE = 224 / 256  # of the short side, which is seen when a picture is measured
_LONGEST = 16  # short sides; a narrower picture would take any amount of memory once enlarged


def shapes(config: ClassifiedConfig) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of every array of a view, without its batch axis."""
    return {
        "image": ((config.image_px, config.image_px, 3), np.dtype(np.uint8)),
        "label": ((), np.dtype(np.int32)),
        "erased": ((4,), np.dtype(np.int32)),
        "noise": ((2,), np.dtype(np.uint32)),
    }


def view(
    record: Record, config: ClassifiedConfig, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """{"image": uint8 [p, p, 3], "label": int32, "erased": int32 [4], "noise": uint32 [2]}.

    A random resized crop, which may be mirrored, then RandAugment. `erased` is the rectangle that
    is to be filled with noise (`ops.rectangles`; empty for none), and `noise` its seed: pixels stay
    uint8 until they are normalised, which noise comes after. DataError for a label that is none of
    the classes.
    """
    label = number(record, config)
    picture = Image.fromarray(crop.image(record, config, rng))
    image = np.asarray(rand_augment.augmented(rng, picture, config.rand_augment))
    hides = rng.random() < config.erasing
    box = draw_rectangle(rng, config.image_px) if hides else np.zeros(4, np.int32)
    seed = rng.integers(2**32, size=2, dtype=np.uint32)
    return {"image": image, "label": np.asarray(label, np.int32), "erased": box, "noise": seed}


def number(record: Record, config: ClassifiedConfig) -> int:
    """Of its class, by name where the config has names; DataError for one that it does not have."""
    label: Label = record.annotation("label")
    names = config.class_names
    if names and names[label.index : label.index + 1] == (label.name,):  # as in most data
        return label.index
    known = class_names.Matched("number", count(config))
    if names:
        numbers = {name: place for place, name in enumerate(names)}
        known = class_names.Matched("name", count(config), numbers)
    return known.number(label, record.name)


def count(config: ClassifiedConfig) -> int:
    """How many classes there are; ConfigError where that is left to data that are not open."""
    if config.classes is None and not config.class_names:
        raise ConfigError(
            "data.view.classes is not given, and is counted when a run starts on data that name "
            "their classes: write --data.view.classes N"
        )
    return config.classes or len(config.class_names)


def adapted(config: ClassifiedConfig, source: Source) -> ClassifiedConfig:
    """The config with number and names of the classes of its data.

    ConfigError where it has others, or the data one class alone.
    """
    names = records.classes(source)
    if len(names) == 1:
        raise ConfigError(
            f"the data has one class alone, {names[0]}, and nothing can be told apart: name a "
            "folder with one folder for each class"
        )
    if config.class_names:
        require(config, source)
        return config
    if names and config.classes not in (None, len(names)):
        raise ConfigError(
            f"data.view.classes is {config.classes}, but the data has {len(names)} "
            f"({class_names.shown(names)}): write --data.view.classes {len(names)}"
        )
    if not names:
        return config
    return dataclasses.replace(config, classes=len(names), class_names=names)


def resumed(config: ClassifiedConfig, before: ViewConfig) -> ClassifiedConfig:
    """The config with the classes that a run has which resumes, where it names no others."""
    same = isinstance(before, ClassifiedConfig) and config.classes in (None, before.classes)
    if not same or config.class_names:
        return config
    return dataclasses.replace(config, classes=before.classes, class_names=before.class_names)


def require(config: ClassifiedConfig, source: Source) -> None:
    """ConfigError unless the classes of the data are those of the config, in any order."""
    there, wanted = records.classes(source), config.class_names
    if not there or not wanted or {*there} == {*wanted}:
        return
    differs = [
        f"it {verb} {class_names.shown(sorted(names))}"
        for verb, names in (("lacks", {*wanted} - {*there}), ("also has", {*there} - {*wanted}))
        if names
    ]
    raise ConfigError(
        f"data.view.class_names are {class_names.shown(wanted)}, and the data has others: "
        f"{'; '.join(differs)}. A class without pictures needs an empty folder; for other classes "
        "start another run"
    )


def centred(record: Record, px: int) -> UInt8[np.ndarray, "{px} {px} 3"]:
    """The centre of a picture whose short side is `px` * 256 / 224, bicubic (torchvision's Resize
    and CenterCrop, in MAE's datasets.py)."""
    pixels = record.picture.rgb()
    short, side = min(pixels.shape[:2]), int(px / _CENTRE)
    first = [max(0, (each - _LONGEST * short) // 2) for each in pixels.shape[:2]]
    rows, columns = (slice(each, each + _LONGEST * short) for each in first)
    picture = Image.fromarray(pixels[rows, columns])
    size = picture.width * side // short, picture.height * side // short
    resized = np.asarray(picture.resize(size, Image.Resampling.BICUBIC))
    top, left = (round((each - px) / 2) for each in resized.shape[:2])
    return resized[top : top + px, left : left + px]


def draw_rectangle(rng: np.random.Generator, px: int) -> Int32[np.ndarray, " 4"]:
    """A rectangle to erase in a square of `px` pixels; an empty one where none was found."""
    for _ in range(_TRIES):
        area, log_ratio = rng.uniform(*_AREAS), rng.uniform(math.log(_RATIO), -math.log(_RATIO))
        height, width = rectangle(area, log_ratio, px)
        if height < px and width < px:
            top = int(rng.integers(px - height + 1))
            left = int(rng.integers(px - width + 1))
            return np.array([top, left, top + height, left + width], np.int32)
    return np.zeros(4, np.int32)


def rectangle(area: float, log_ratio: float, px: int) -> tuple[int, int]:
    """Height and width of a share of a square; the log of their ratio is uniform."""
    pixels, ratio = area * px * px, math.exp(log_ratio)
    return round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
