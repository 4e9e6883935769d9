"""What a run on one's own pictures takes from its model, its pictures and its machine.

For configs with `defaults="own_data"` (`configs/finetune.py`). A value that the command line names,
or that differs from the shipped config, is kept; the others follow the rules here, which
docs/training.md lists. A run that resumes keeps the values of its first start.
"""

import dataclasses
import math
import warnings
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath
from typing import Any, Literal

import jax
import numpy as np

from esam_jax import configs
from esam_jax.config import (
    EvaluateConfig,
    MixtureConfig,
    PromptedConfig,
    RunConfig,
    SamConfig,
    ScenesConfig,
    SegmentConfig,
    SourceConfig,
)
from esam_jax.config import json as config_json
from esam_jax.convert import load, provenance
from esam_jax.convert.model_folder import ModelFile
from esam_jax.data import sources
from esam_jax.data.records import Source
from esam_jax.errors import CheckpointError, ConfigError, DataError, EsamError
from esam_jax.models import named
from esam_jax.words import counted

SHARE, FEWEST, MOST = 0.2, 6, 500  # of the pictures that are held out
SMALL_SET = 2000  # pictures below which they are augmented
BATCH = 8
STEPS = 100  # times the root of the number of pictures
PEAK_LR = {"all": 1e-4, "decoder": 2e-4, "lora": 5e-4}  # at that batch
ENCODER_RATE = {"all": 0.1, "decoder": 1.0, "lora": 1.0}
EVALUATIONS = 10  # in a run
_COMPARED = 20  # pictures with one name, by their pixels
LARGE_PX = 512  # from which side of the model's input on memory is spared

Values = dict[str, Any]  # by their paths in the config: "optim.peak_lr"
_NEEDS = frozenset({"masks"})  # annotations that are trained on
_SOURCES = ("data.source", "evaluate.source")
# All that may follow the rules, besides what is read.
_FOLLOWS = (
    *("task.model", "task.clicks", "task.repeats", "task.click_labels", "task.answers"),
    *("data.view.image_px", "data.view.fit", "data.view.jitter", "data.view.colour"),
    *("data.view.flip", "batch", "accumulate", "steps", "compute.dtype", "compute.remat"),
    *("optim.peak_lr", "optim.warmup_steps", "optim.encoder_rate"),
    *("evaluate.images", "evaluate.every_steps", "save.every_steps"),
)


def fitted(config: RunConfig, given: Collection[str], before: RunConfig | None = None) -> RunConfig:
    """The config with the values that are not `given` by rule, or as a run has them that resumes.

    `given` holds paths such as "optim.peak_lr", `before` is the config of that run. Opens model and
    data: MissingError, DataError, CheckpointError or ConfigError for what is not there or does not
    fit.
    """
    given = {*given, *_changed(config)}
    if before is not None:
        read = _sources_as(before, config, given)
        values = {path: value_at(before, path) for path in _FOLLOWS}
    else:
        read = _sources(config, given)
        values = _by_rule(config, given, read["data.source"])
    kept = {path: value for path, value in values.items() if path not in given}
    return replaced(config, {**kept, **read})


def value_at(config: Any, path: str) -> Any:
    """The value at a path such as "optim.peak_lr"."""
    for name in path.split("."):
        config = getattr(config, name)
    return config


def replaced(config: Any, values: Mapping[str, Any]) -> Any:
    """A config with the values at these paths; all at once, since rules may compare them."""
    below: dict[str, Values] = {}
    for path, value in values.items():
        name, _, rest = path.partition(".")
        below.setdefault(name, {})[rest] = value
    fields = {
        name: inside[""] if "" in inside else replaced(getattr(config, name), inside)
        for name, inside in below.items()
    }
    return dataclasses.replace(config, **fields)


def _changed(config: RunConfig) -> set[str]:
    """Paths of the values in which a config differs from the shipped one."""
    shipped = configs.load("finetune")
    pairs = config_json.differences(config_json.to_json(shipped), config_json.to_json(config))
    return {path for path, _, _ in pairs}


# ---------------------------------------------------------------------------- what is read


def _sources(config: RunConfig, given: Collection[str]) -> dict[str, SourceConfig]:
    """What is trained and measured on: a part of the same pictures each, unless the latter are
    given."""
    train = _opened_as(config.data.source, config, given, "data.source")
    measured = _evaluate(config).source
    if {"evaluate.source.path", "evaluate.source.paths"} & {*given}:
        measured = _opened_as(measured, config, given, "evaluate.source")
        if overlap := _overlap(train, measured):
            warnings.warn(overlap, UserWarning, stacklevel=2)
        return _both(train, measured)
    if isinstance(train, ScenesConfig):
        return _both(train, dataclasses.replace(train, split="heldout"))
    pictures = len(sources.open_source(sources.once(train), needs=_NEEDS))
    if pictures < 2:
        raise DataError(
            f"{' and '.join(sources.paths(train))} holds {counted(pictures, 'picture')}, but some "
            "are trained on and others measured: give 20 or more, or name others to measure on "
            "with --evaluate.source.path"
        )
    heldout = held_out(pictures)
    wanted = getattr(config.data.source, "heldout", 0)
    if "data.source.heldout" in given and wanted:
        heldout = wanted
    train = dataclasses.replace(train, part="train", heldout=heldout)
    return _both(train, dataclasses.replace(train, part="heldout"))


def _sources_as(
    before: RunConfig, config: RunConfig, given: Collection[str]
) -> dict[str, SourceConfig]:
    """The same of a run that was started, whose files may lie elsewhere now."""
    train, measured = before.data.source, _evaluate(before).source
    train = _with(train, config, given, "data.source")
    if getattr(measured, "part", "all") == "heldout":
        return _both(train, dataclasses.replace(train, part="heldout"))
    return _both(train, _with(measured, config, given, "evaluate.source"))


def _both(train: SourceConfig, measured: SourceConfig) -> dict[str, SourceConfig]:
    return {"data.source": train, "evaluate.source": measured}


def _overlap(train: SourceConfig, measured: SourceConfig) -> str | None:
    """A sentence where pictures to measure on are trained on: by their names, one by its pixels."""
    trained, held = sources.open_source(train), sources.open_source(measured, "evaluate.source.")
    places = {PurePosixPath(trained.name(i)).name: i for i in range(len(trained))}
    names = {i: PurePosixPath(held.name(i)).name for i in range(len(held))}
    both = [(places[name], i) for i, name in names.items() if name in places]
    same = next((held.name(i) for at, i in both[:_COMPARED] if _same(trained, at, held, i)), None)
    if same is None:
        return None  # cameras give the same names again
    return (
        f"{len(both)} of the {counted(len(held), 'picture')} to measure on have names that are "
        f"trained on, too, and {same} is the same picture in both: how good the model is on other "
        "pictures is not measured. Name others with --evaluate.source.path, or leave it out: then "
        "a fifth of the pictures is held out"
    )


def _same(trained: Source, at: int, held: Source, i: int) -> bool:
    try:
        return np.array_equal(trained.read(at).picture.rgb(), held.read(i).picture.rgb())
    except EsamError:  # training and evaluation say which and why
        return False


def held_out(pictures: int) -> int:
    """How many of so many pictures are kept to measure on: a fifth, six at least, 500 at most.

    Never more than a third, where that leaves one.
    """
    wanted = max(FEWEST, math.ceil(SHARE * pictures))
    return max(1, min(wanted, MOST, pictures // 3))


def _opened_as(
    source: SourceConfig, config: RunConfig, given: Collection[str], path: str
) -> SourceConfig:
    """The kind of data that the path holds, unless its kind is given, with the given values."""
    if isinstance(source, ScenesConfig):
        return source
    every = dataclasses.replace(source, part="all", heldout=0)  # the shipped config has a number
    if isinstance(every, MixtureConfig):
        return every
    if every.path is None:
        raise ConfigError(f"{path}.path is not given: name your pictures with --{path}.path")
    found = every if f"{path}.kind" in given else sources.detect(every.path)
    if not found.annotations >= _NEEDS:
        raise DataError(
            f"{every.path} holds pictures without masks, and nothing can be learned from them: "
            "name a COCO json, a folder of sa_*.json or of label maps"
        )
    return _with(found, config, given, path)


def _with(
    source: SourceConfig, config: RunConfig, given: Collection[str], path: str
) -> SourceConfig:
    """The source with its values that are given; ConfigError for one that it does not have."""
    names = {each.removeprefix(f"{path}.") for each in given if each.startswith(f"{path}.")}
    names -= {"kind", "part", "heldout"}
    for name in sorted(names):
        if not hasattr(source, name):
            raise ConfigError(f"{path}.{name} is given, but {source.kind} data has no such value")
    return dataclasses.replace(
        source, **{name: value_at(config, f"{path}.{name}") for name in names}
    )


def _evaluate(config: RunConfig) -> EvaluateConfig:
    if config.evaluate is None:
        raise ConfigError("evaluate is off, but fine-tuning chooses the model by it: leave it on")
    return config.evaluate


# ---------------------------------------------------------------------------- the rules


def _by_rule(config: RunConfig, given: Collection[str], source: SourceConfig) -> Values:
    task = config.task
    assert isinstance(task, SegmentConfig)
    if task.init_from is None:
        raise ConfigError(
            "task.init_from is not given: name the model to start from, such as --task.init-from "
            "efficientsam_ti"
        )
    file = load.model_file(task.init_from)
    name, network = _network(task.init_from, file)
    if "task.model" in given and task.model != name and _extends(named.sam(task.model), network):
        name, network = task.model, named.sam(task.model)
    pictures = len(sources.open_source(source, needs=_NEEDS))
    batch = config.batch if "batch" in given else max(BATCH, jax.device_count())
    steps = config.steps if "steps" in given else length(pictures, batch)
    often = max(1, steps // EVALUATIONS)
    if "evaluate.every_steps" in given and _evaluate(config).every_steps:
        often = _evaluate(config).every_steps
    augmented = pictures < SMALL_SET
    view = config.data.view
    assert isinstance(view, PromptedConfig)
    return {
        "task.model": name,
        **_rounds(task, network, file.untrained),
        "data.view.image_px": network.image_px,
        "data.view.fit": network.fit,
        "data.view.jitter": view.jitter if augmented else None,
        "data.view.colour": view.colour if augmented else 0.0,
        "data.view.flip": "horizontal" if augmented else "none",
        "batch": batch,
        **_memory(batch, network.image_px),
        "steps": steps,
        "optim.peak_lr": peak_lr(task.train, batch),
        "optim.warmup_steps": min(200, steps // 10),
        "optim.encoder_rate": ENCODER_RATE[task.train],
        "evaluate.images": MOST,
        "evaluate.every_steps": often,
        "save.every_steps": often,
    }


def length(pictures: int, batch: int) -> int:
    """Updates: a hundred times the root of the number of pictures at a batch of 8, as many examples
    at another; 374 for 14 pictures, 3162 for a thousand."""
    return max(1, round(STEPS * math.sqrt(pictures) * BATCH / batch))


def peak_lr(train: Literal["all", "decoder", "lora"], batch: int) -> float:
    """By what is trained, times the root of the batch over 8."""
    return PEAK_LR[train] * math.sqrt(batch / BATCH)


def _network(source: str, file: ModelFile) -> tuple[str, SamConfig]:
    """The name and config of a model that answers prompts already."""
    if not isinstance(file.config, SamConfig) or {"decoder", "prompt"} & {*file.untrained}:
        raise CheckpointError(
            f"task.init_from {source} answers no prompts yet: name a released model, or a run of "
            "promptable training (esam train segment_ti --task.init-from makes one)"
        )
    plain = dataclasses.replace(file.config.decoder, text_width=None)  # a run may leave it out
    config = dataclasses.replace(file.config, decoder=plain)
    name = named.name_of(config)
    if name is None:
        raise CheckpointError(
            f"task.init_from {source} is of a size that has no name: add it to models/named.py"
        )
    return name, config


def _extends(wanted: SamConfig, found: SamConfig) -> bool:
    """Whether `wanted` is `found` with background points and mask prompts."""
    extras = {"background": "learned", "mask_prompts": "learned"}
    return wanted == dataclasses.replace(
        found, decoder=dataclasses.replace(found.decoder, **extras)
    )


def _rounds(task: SegmentConfig, network: SamConfig, untrained: Collection[str]) -> Values:
    """Three rounds of clicks, as far as the model takes them, and one without where it is shown
    masks.

    What was never trained needs more than low-rank pairs in the encoder.
    """
    decoder, fresh = network.decoder, set() if task.train != "lora" else {*untrained}
    both = decoder.background == "learned" and "prompt/background" not in fresh
    shown = decoder.mask_prompts == "learned" and "prompt/mask" not in fresh
    single = decoder.traits.extras == "always" and provenance.SINGLE_MASK not in untrained
    return {
        "task.clicks": 3,
        "task.repeats": 1 if shown else 0,
        "task.click_labels": "both" if both else "foreground",
        "task.answers": "single" if single else "candidates",
    }


def _memory(batch: int, image_px: int) -> Values:
    """On accelerators bfloat16 and two large pictures at a time on each, on a CPU one."""
    cpu, large, devices = jax.default_backend() == "cpu", image_px >= LARGE_PX, jax.device_count()
    most = devices * (1 if cpu else 2) if large else batch
    parts = [n for n in range(1, batch + 1) if batch % n == 0]
    fitting = [n for n in parts if batch // n <= most and batch // n % devices == 0]
    return {
        "accumulate": min(fitting, default=1),
        "compute.dtype": "float32" if cpu else "bfloat16",
        "compute.remat": "blocks" if large else "none",
    }
