"""`esam evaluate classify`: top-1 and top-5 of a classifier, or of anybody's predictions."""

import dataclasses
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from esam_jax import files
from esam_jax.config import (
    ClassifierConfig,
    ComputeConfig,
    EvaluateConfig,
    SourceConfig,
    TellsClasses,
    VitConfig,
)
from esam_jax.convert.model_folder import ModelFile
from esam_jax.data import class_names, records, sources
from esam_jax.data.class_names import Matched
from esam_jax.data.labels import Label
from esam_jax.data.records import Source
from esam_jax.data.views import View, classified
from esam_jax.errors import CheckpointError, DataError, MissingError
from esam_jax.evaluate import accuracy, class_counts, picture_rows, prompts, published_classes
from esam_jax.models import kinds
from esam_jax.ops import images
from esam_jax.typing import Batch, Params
from esam_jax.words import counted

_MOST_BYTES = 2**30  # of predictions: ImageNet's 50,000 pictures with five names take 10 MB
_PER_DEVICE = 32  # pictures at once
_UNRANKED = 10**9  # behind all that was predicted
_NEEDS = frozenset({"label"})
_CENTRE = "the centre of each picture, short side resized to 256/224 of the input, bicubic"


def of_model(
    file: ModelFile, config: SourceConfig, count: int, *, progress: bool | None = None
) -> dict[str, Any]:
    """top1, top5 of a model in a file, over all local devices, with the protocol.

    With what `class_counts.table` gives, the `published` numbers, and `unknown_classes`: pictures
    of each class of the data that the model does not have. CheckpointError for a model that tells
    no classes apart, ConfigError where it has none of the data's, DataError where no picture can be
    used.
    """
    network = file.config
    if not isinstance(network, TellsClasses):
        raise CheckpointError(
            f"{file.source} has no head for classes: name a run of the task classify or a "
            "classifier in timm's names, or measure its features with --probe"
        )
    begin, source = time.monotonic(), sources.open_source(config, "", _NEEDS)
    data, px = records.classes(source), network.image_px
    matched = class_names.match(network.class_names, network.classes, data, "this data")
    places = prompts.chosen(source, count, EvaluateConfig.seed)
    answers = _answers(file, network, source, places, matched, progress)
    names = _names(network, data)
    found = {
        **class_counts.table(
            [names(each) for each in answers.labels],
            answers.ranks,
            [names(each) for each in answers.first],
        ),
        "images": len(answers.ranks),
        "skipped": len(answers.broken) + len(answers.unknown),
        **_unknown(answers.unknown),
        **_reasons(source, answers.broken),
    }
    how = f"{_CENTRE}, {px} x {px}; {matched.words()}"
    encoder = network.encoder if isinstance(network, ClassifierConfig) else None
    return _reported(found, source, count, how, begin, encoder)


@dataclasses.dataclass
class _Answers:
    """Of the pictures that can be used: number, rank and likeliest class; the classes of those
    that are `unknown` to the model, by record; why others are `broken`."""

    labels: list[int] = dataclasses.field(default_factory=list)
    ranks: list[int] = dataclasses.field(default_factory=list)
    first: list[int] = dataclasses.field(default_factory=list)
    unknown: dict[str, str] = dataclasses.field(default_factory=dict)
    broken: list[str] = dataclasses.field(default_factory=list)


def _answers(
    file: ModelFile,
    network: TellsClasses,
    source: Source,
    places: Sequence[int],
    matched: Matched,
    progress: bool | None,
) -> _Answers:
    """What the model says of the pictures at these places."""
    model, px = kinds.of(network).network.NETWORK(network, ComputeConfig()), network.image_px
    answers = _Answers()

    def read(place: int) -> View:
        record = source.read(place)
        label: Label = record.annotation("label")
        if label.name in matched.unknown:
            answers.unknown[record.name] = label.name
            raise DataError(record.name)
        number = np.asarray(matched.number(label, record.name), np.int32)
        return {"image": classified.centred(record, px), "label": number}

    def compute(params: Params, batch: Batch) -> dict[str, jax.Array]:
        found = model.apply({"params": params}, images.normalise(batch["image"]))
        assert isinstance(found, jax.Array)
        label = batch["label"]
        return {"rank": accuracy.rank(found, label), "first": found.argmax(1), "label": label}

    shapes = {"image": ((px, px, 3), np.dtype(np.uint8)), "label": ((), np.dtype(np.int32))}
    for rows in picture_rows.of(
        compute,
        file.params,
        read,
        shapes,
        places,
        per_device=_PER_DEVICE,
        what="evaluate classify",
        progress=progress,
    ):
        answers.broken += [each for each in rows.broken if each not in answers.unknown]
        answers.labels += rows.values["label"].tolist()
        answers.ranks += rows.values["rank"].tolist()
        answers.first += rows.values["first"].tolist()
    return answers


def _unknown(classes: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """How many records there are of each class that the model does not have; a UserWarning."""
    if not classes:
        return {}
    counts = dict(sorted(Counter(classes.values()).items()))
    warnings.warn(
        f"evaluation: {counted(len(classes), 'picture')} left out, of classes that the model does "
        f"not have: {class_names.shown(counts)}",
        UserWarning,
        stacklevel=3,
    )
    return {"unknown_classes": counts}


def _names(network: TellsClasses, data: Sequence[str]) -> Callable[[int], str]:
    """Number of a class of a model -> its name, or that of the data, or the number."""
    names = network.class_names or data
    return lambda number: names[number] if number < len(names) else str(number)


def of_predictions(path: Path, config: SourceConfig, count: int) -> dict[str, Any]:
    """top1, top5 of a JSON object from names of records to their classes, the likeliest first.

    A class is a name or a number of the data's; a single one needs no list. A record without a
    prediction counts as wrong and in `unanswered`. DataError for a file of another form, or one
    that names no record that is measured.
    """
    begin = time.monotonic()
    given = files.read_json(path, max_bytes=_MOST_BYTES, error=DataError)
    source = sources.open_source(config, "", _NEEDS)
    places = prompts.chosen(source, count, EvaluateConfig.seed)
    answered, broken = [], []
    for place in places:
        name = source.name(place)
        try:
            label = source.read(place).annotation("label")
        except (DataError, MissingError) as error:
            broken.append(str(error))
            continue
        answered.append((label, _classes(given[name], name, path) if name in given else None))
    unanswered = sum(classes is None for _, classes in answered)
    if answered and unanswered == len(answered):
        raise DataError(
            f"{path} has no prediction for any of {len(places)} records, such as "
            f"{source.name(places[0])}: name records as `esam data show` does"
        )
    ranks = [_rank(label, classes or ()) for label, classes in answered]
    if answered and min(ranks) == _UNRANKED:
        _warn_of_none_right(path, answered)
    data = records.classes(source)
    first = [None if classes is None else _named(classes[0], data) for _, classes in answered]
    found = {
        **class_counts.table([label.name for label, _ in answered], ranks, first),
        "images": len(ranks),
        "skipped": len(broken),
        "unanswered": unanswered,
        **_unused(given, source),
        **_reasons(source, broken),
    }
    most = max((len(classes or ()) for _, classes in answered), default=0)
    how = f"predictions as given, at most {counted(most, 'class', 'classes')} of a picture"
    return _reported(found, source, count, how, begin, None)


def _classes(value: Any, name: str, path: Path) -> Sequence[str | int]:
    found = value if isinstance(value, list) else [value]
    if not found or not all(isinstance(each, str) or type(each) is int for each in found):
        raise DataError(
            f"{path}: the prediction for {name[:80]} must be the name or number of a class, or a "
            "list of them, the likeliest first"
        )
    return found


def _rank(label: Label, classes: Sequence[str | int]) -> int:
    """Place of the right class among those that were predicted, from 0; else behind all."""
    wanted = (label.index, label.name)
    return next((i for i, each in enumerate(classes) if each in wanted), _UNRANKED)


def _named(predicted: str | int, names: Sequence[str]) -> str:
    """A predicted class, by its name where it is a number of the data's."""
    if isinstance(predicted, int) and 0 <= predicted < len(names):
        return names[predicted]
    return str(predicted)


def _unused(given: Mapping[str, Any], source: Source) -> dict[str, int]:
    """How many predictions are of no record of the data."""
    unused = given.keys() - {source.name(place) for place in range(len(source))}
    return {"unused": len(unused)} if unused else {}


def _reasons(source: Source, broken: Sequence[str]) -> dict[str, list[str]]:
    """What is said of pictures that are left out, and of the data."""
    reasons = prompts.warn(prompts.of_source(source), broken, "")
    return {"reasons": reasons} if reasons else {}


def _warn_of_none_right(
    path: Path, answered: Sequence[tuple[Label, Sequence[str | int] | None]]
) -> None:
    """Other names for the same classes look like a classifier that is always wrong."""
    label, classes = next((each, found) for each, found in answered if found is not None)
    warnings.warn(
        f"evaluation: {path} has the class of no record right: it says {list(classes)[:3]} for one "
        f"of class {label.name!r}, number {label.index}; name classes as the data does",
        UserWarning,
        stacklevel=3,
    )


def _reported(
    found: Mapping[str, Any],
    source: Source,
    count: int,
    how: str,
    begin: float,
    encoder: VitConfig | None,
) -> dict[str, Any]:
    if not found["images"]:
        first = next(iter(found.get("reasons", ())), "none is of a class that the model has")
        raise DataError(f"none of {len(source)} pictures can be used: {first}")
    taken = f"{min(count, len(source))} of {len(source)} pictures"
    beside = published_classes.imagenet(
        encoder,
        records.classes(source),
        there=len(source),
        pictures=found["images"],
        skipped=found["skipped"],
    )
    return {
        "task": "classify",
        **found,
        "published": beside,
        "data": records.summary(source),
        "protocol": f"{taken}; {how}",
        "seconds": round(time.monotonic() - begin, 1),
    }
