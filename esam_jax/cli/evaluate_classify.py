"""`esam evaluate classify`: top-1 and top-5 of a classifier, a probe, anybody's predictions."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax

from esam_jax.cli import arguments
from esam_jax.config import SourceConfig
from esam_jax.convert import load as models
from esam_jax.convert.model_folder import ModelFile
from esam_jax.data import sources
from esam_jax.errors import ConfigError
from esam_jax.evaluate import class_scores, feature_probes, nearest_neighbours
from esam_jax.machine import compile_cache, compiler_options
from esam_jax.models import kinds, named
from esam_jax.words import counted

_RANDOM = "random:"
_WORST, _CONFUSIONS = 5, 5  # that are printed
_PROBE_OPTIONS = ("train", "feature", "neighbours", "train_images")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """How often the class of a picture is the likeliest, or among the five likeliest.

    Of a model that `esam train` made with the task classify, of a probe that reads classes off the
    features of any encoder, or of a file with predictions.
    """

    data: str
    """A folder with one for each class, tar archives, a data set of tensorflow-datasets, a pack."""
    model: str | None = None
    """A model folder, run folder or RUN@STEP; with --probe also random:NAME, such as
    random:efficientsam_ti."""
    predictions: Path | None = None
    """In place of a model, a JSON object: the name of each record, and its class or a list of
    classes, the likeliest first, by name or number."""
    probe: Literal["knn", "linear"] | None = None
    """Read classes off frozen features: a vote of nearest neighbours, or one linear layer."""
    train: str | None = None
    """What a probe learns from; as --data."""
    feature: Literal["mean", "class_token"] | None = None
    """Of a probe: the mean of the patches (default), or the class token."""
    neighbours: tuple[int, ...] = ()
    """Of knn: how many have a vote, 20 10 100 200 without it; the first number is the result."""
    train_images: int | None = None
    """Of a probe: how many pictures it learns from at most; some are drawn where there are more."""
    images: int = 50_000
    """How many pictures at most; some are drawn where there are more."""
    labels: str | None = None
    """Of tar archives: a text file with the class of each picture."""
    split: str | None = None
    """Of tensorflow-datasets: the split to read."""
    json: bool = False
    """Print the result as JSON, with the accuracy of each class and what is taken for what."""


def main(argv: Sequence[str]) -> int:
    """Prints the numbers; missing data is reported before weights are read."""
    args = arguments.parse(Arguments, argv, prog="esam evaluate classify")
    _require(args)
    source = _source(args.data, {key: getattr(args, key) for key in ("labels", "split")})
    if args.predictions is not None:
        result = class_scores.of_predictions(args.predictions, source, args.images)
    elif args.probe is not None:
        assert args.train is not None
        train = _source(args.train, {})
        compile_cache.enable()
        result = feature_probes.evaluate(
            _model(str(args.model)),
            train,
            source,
            args.probe,
            feature=args.feature or "mean",
            neighbours=args.neighbours or nearest_neighbours.NEIGHBOURS,
            images=args.images,
            train_images=args.train_images,
        )
    else:
        location = models.locate(str(args.model))
        compile_cache.enable()
        result = class_scores.of_model(models.model_file(location), source, args.images)
    result = {**result, "of": str(args.model or args.predictions)}
    print(json.dumps(result) if args.json else for_people(result))
    return 0


def _require(args: Arguments) -> None:
    """ConfigError for options that do not go together, or values that none can have."""
    if (args.model is None) == (args.predictions is None):
        raise ConfigError("--model and --predictions are two things to measure: write one of them")
    for name in ("images", "train_images"):
        value = getattr(args, name)
        if value is not None and value < 1:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} is {value}, but must be at least 1")
    if args.neighbours and min(args.neighbours) < 1:
        raise ConfigError(f"--neighbours has {min(args.neighbours)}, but each must be at least 1")
    if args.probe is None:
        given = [name for name in _PROBE_OPTIONS if getattr(args, name)]
        if given:
            option = given[0].replace("_", "-")
            raise ConfigError(f"--{option} is of a probe: add --probe knn or --probe linear")
        return
    if args.model is None:
        raise ConfigError(f"--probe {args.probe} reads the features of a model: write --model")
    if args.train is None:
        raise ConfigError(f"--probe {args.probe} learns from pictures: name them with --train")
    if args.neighbours and args.probe != "knn":
        raise ConfigError("--neighbours is of --probe knn: leave it out")


def _source(path: str, given: Mapping[str, str | None]) -> SourceConfig:
    """The data, read as the arguments say; ConfigError for one that such data does not know."""
    found = sources.detect(path)
    chosen = {key: value for key, value in given.items() if value}
    for key, value in chosen.items():
        if not hasattr(found, key):
            raise ConfigError(f"--{key} is {value!r}, but {found.kind} has no such choice")
    return dataclasses.replace(found, **chosen)


def _model(name: str) -> ModelFile:
    """That of a name, also of random weights, which are the same at every call."""
    if not name.startswith(_RANDOM):
        return models.model_file(models.locate(name))
    config = named.model(name.removeprefix(_RANDOM))
    network, options = kinds.of(config).network, compiler_options.once(jax.default_backend())
    draw = jax.jit(lambda key: network.init(config, key), compiler_options=options)
    return ModelFile(config=config, params=jax.device_get(draw(jax.random.key(0))), source=name)


def for_people(result: Mapping[str, Any]) -> str:
    """The shares, the classes that are worst, published numbers, and what all of it is of."""
    lines = [f"top-1  {result['top1']:.4f}", f"top-5  {result['top5']:.4f}"]
    lines += [
        f"{row['neighbours']} neighbours: top-1 {row['top1']:.4f}, top-5 {row['top5']:.4f}"
        for row in result.get("neighbours", ())
    ]
    lines += _classes(result)
    published = result.get("published", {"rows": (), "left_out": ()})
    lines += [
        f"published ({row['source']}): {row['model']}, {row['pretraining']}, top-1 {row['top1']}"
        for row in published["rows"]
    ]
    lines += [f"no published numbers: {reason}" for reason in published["left_out"]]
    learned = f"learned from: {result['train']}; " if "train" in result else ""
    return "\n".join(
        [
            *lines,
            f"{counted(result['images'], 'picture')}{_noted(result)}. {result['protocol']}",
            f"{learned}data: {result['data']}",
            f"of {result['of']}; {result['seconds']} seconds",
        ]
    )


def _classes(result: Mapping[str, Any]) -> list[str]:
    """The classes with the lowest top-1, and which are taken for which."""
    classes = result["classes"]
    ranked = sorted(classes, key=lambda name: (classes[name]["top1"], name))
    shown = ", ".join(
        f"{name} {classes[name]['top1']:.3f} of {classes[name]['images']}"
        for name in ranked[:_WORST]
    )
    kind = "class" if len(classes) <= _WORST else f"class, the worst of {len(classes)}"
    lines = [f"by {kind}: {shown}; mean {result['class_mean_top1']:.4f}"]
    if pairs := result["confusions"][:_CONFUSIONS]:
        words = (f"{x['class']} for {x['taken_for']} {x['images']}" for x in pairs)
        lines.append(f"taken for another: {', '.join(words)}")
    return lines


def _noted(result: Mapping[str, Any]) -> str:
    """What was left out or is missing, in brackets; "" for nothing."""
    counts = [f"{counted(result['skipped'], 'picture')} left out"] if result["skipped"] else []
    if unknown := result.get("unknown_classes"):
        names = ", ".join(f"{name} {count}" for name, count in unknown.items())
        counts.append(f"of classes that the model does not have: {names}")
    if result.get("train_skipped"):
        counts.append(f"{counted(result['train_skipped'], 'picture')} to learn from left out")
    if result.get("unanswered"):
        counts.append(f"{counted(result['unanswered'], 'picture')} without a prediction: wrong")
    if result.get("unused"):
        counts.append(f"{counted(result['unused'], 'prediction')} of other records")
    return f" ({', '.join(counts)})" if counts else ""
