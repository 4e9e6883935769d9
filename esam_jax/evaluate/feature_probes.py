"""`esam evaluate classify --probe`: how well classes can be read off the features of an encoder.

Nothing of the encoder is trained: nearest neighbours vote, or one linear layer is fitted.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Integer

from esam_jax.config import EvaluateConfig, SourceConfig
from esam_jax.convert.model_folder import ModelFile
from esam_jax.data import class_names, records, sources
from esam_jax.data.labels import Label
from esam_jax.data.records import Source
from esam_jax.errors import ConfigError, DataError
from esam_jax.evaluate import (
    class_counts,
    frozen_features,
    linear_probe,
    nearest_neighbours,
    prompts,
)
from esam_jax.evaluate.frozen_features import Feature, Features
from esam_jax.words import counted

Kind = Literal["knn", "linear"]

_NEEDS = frozenset({"label"})
_BLOCK = 4096  # pictures whose logits are held at once
_CENTRE = "the centre of each picture, {px} x {px}, short side resized to 256/224 of it, bicubic"


def evaluate(
    file: ModelFile,
    train: SourceConfig,
    data: SourceConfig,
    probe: Kind,
    *,
    feature: Feature = "mean",
    neighbours: Sequence[int] = nearest_neighbours.NEIGHBOURS,
    images: int | None = None,
    train_images: int | None = None,
    seed: int = EvaluateConfig.seed,
    progress: bool | None = None,
) -> dict[str, Any]:
    """top1, top5 on `data` of a probe of the model's features that learns from `train`.

    What `class_counts.table` gives of the first of `neighbours`, or of the linear layer, with
    `neighbours` (rows for each number) or `strength` and `tried`, `train`, `data`, `protocol` and
    `seconds`. `images` and `train_images` of each are drawn by the seed; None takes all. Classes
    are compared by name. CheckpointError for a model without such a feature, ConfigError for
    classes that differ or a single one, DataError where no picture can be used.
    """
    begin = time.monotonic()
    made = frozen_features.extractor(file, feature)
    known, queries = (
        sources.open_source(each, options, _NEEDS)
        for each, options in ((train, "train."), (data, ""))
    )
    names = records.classes(known)
    _require_several(names, "--train")
    taken = {
        "train": prompts.chosen(known, train_images, seed),
        "data": prompts.chosen(queries, images, seed),
    }
    found = frozen_features.of(
        made, known, taken["train"], _own, what="features to learn from", progress=progress
    )
    classes = len(names) or int(found.labels.max(initial=-1)) + 1
    _require_learnable(found, names, known)
    matched = class_names.match(names, classes, records.classes(queries), "this data")
    asked = frozen_features.of(
        made, queries, taken["data"], matched.number, what="features to classify", progress=progress
    )
    if not len(asked.labels):
        raise DataError(f"none of {len(queries)} pictures can be used: {asked.broken[0]}")
    if probe == "knn":
        result, how = _by_neighbours(found, asked, classes, neighbours, _names(names))
    else:
        result, how = _by_layer(found, asked, classes, seed, _names(names))
    how = f"{_CENTRE.format(px=made.px)}; {made.words}; {how}; {matched.words()}"
    about = _about(known, found, queries, asked, how)
    return {
        "task": "classify",
        "probe": probe,
        **result,
        **about,
        "seconds": round(time.monotonic() - begin, 1),
    }


def _about(
    known: Source, found: Features, queries: Source, asked: Features, how: str
) -> dict[str, Any]:
    """What was used of either data, what was left out, and the protocol."""
    reasons = _warned((known, found.broken, "train."), (queries, asked.broken, ""))
    protocol = (
        f"{len(asked.labels)} of {counted(len(queries), 'picture')}, learned from "
        f"{len(found.labels)} of {counted(len(known), 'picture')}; {how}"
    )
    return {
        "images": len(asked.labels),
        "skipped": len(asked.broken),
        "train_images": len(found.labels),
        "train_skipped": len(found.broken),
        **reasons,
        "train": records.summary(known),
        "data": records.summary(queries),
        "protocol": protocol,
    }


def _by_neighbours(
    known: Features,
    asked: Features,
    classes: int,
    neighbours: Sequence[int],
    name: Callable[[int], str],
) -> tuple[dict[str, Any], str]:
    tables: dict[int, dict[str, Any]] = {}
    for order, count in nearest_neighbours.ranked(
        known.values, known.labels, asked.values, classes, neighbours
    ):
        if count not in tables:
            tables[count] = _table(asked.labels, order, name)
    first = next(iter(tables))
    rows = [
        {"neighbours": count, "top1": table["top1"], "top5": table["top5"]}
        for count, table in tables.items()
    ]
    how = (
        f"a vote of the {first} nearest pictures by cosine, each exp(cosine / "
        f"{nearest_neighbours.TEMPERATURE}) (arXiv:2104.14294)"
    )
    return {**tables[first], "neighbours": rows}, how


def _by_layer(
    known: Features, asked: Features, classes: int, seed: int, name: Callable[[int], str]
) -> tuple[dict[str, Any], str]:
    probe = linear_probe.learned(known.values, known.labels, classes, seed)
    blocks = (
        np.argsort(-probe.logits(asked.values[first : first + _BLOCK]), axis=1, kind="stable")
        for first in range(0, len(asked.values), _BLOCK)
    )
    table = _table(asked.labels, np.concatenate([each.astype(np.int32) for each in blocks]), name)
    how = (
        f"one linear layer on standardised features by L-BFGS, L2 of {probe.strength:.4g} chosen "
        "on a fifth of the pictures to learn from (arXiv:2103.00020, A.3)"
    )
    tried = [{"strength": strength, "top1": round(x, 6)} for strength, x in probe.tried.items()]
    return {**table, "strength": probe.strength, "tried": tried}, how


def _table(
    labels: Integer[np.ndarray, " X"], order: Integer[np.ndarray, "X _"], name: Callable[[int], str]
) -> dict[str, Any]:
    """Of the classes in their order, the likeliest first; one that is not there is behind all."""
    right = order == labels[:, None]
    ranks = np.where(right.any(1), right.argmax(1), order.shape[1])
    truth = [name(each) for each in labels.tolist()]
    return class_counts.table(truth, ranks.tolist(), [name(x) for x in order[:, 0].tolist()])


def _own(label: Label, record: str) -> int:
    """The number of a class that is learned."""
    if label.index < 0:
        raise DataError(f"{record} has class {label.index} ({label.name}), which is none")
    return label.index


def _names(names: Sequence[str]) -> Callable[[int], str]:
    return lambda number: names[number] if number < len(names) else str(number)


def _require_several(names: Sequence[str], option: str) -> None:
    if len(names) == 1:
        raise ConfigError(
            f"{option} has one class alone, {names[0]}, and nothing can be told apart: name a "
            "folder with one folder for each class"
        )


def _require_learnable(found: Features, names: Sequence[str], source: Source) -> None:
    """DataError where there is nothing to learn from, ConfigError for one class."""
    if not len(found.labels):
        raise DataError(
            f"none of {len(source)} pictures to learn from can be used: {found.broken[0]}"
        )
    there = np.unique(found.labels).tolist()
    if len(there) == 1:
        only = _names(names)(there[0])
        raise ConfigError(
            f"all {counted(len(found.labels), 'picture')} of --train that can be used are of the "
            f"class {only}, and nothing can be told apart: name pictures of others, too"
        )


def _warned(*each: tuple[Source, Sequence[str], str]) -> dict[str, list[str]]:
    """What is said of pictures that are left out, of either data."""
    found = [
        reason
        for source, broken, options in each
        for reason in prompts.warn(prompts.of_source(source), broken, options)
    ]
    return {"reasons": found} if found else {}
