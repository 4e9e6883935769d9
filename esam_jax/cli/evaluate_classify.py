"""`esam evaluate classify`: top-1 and top-5 of a classifier, or of anybody's predictions."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from esam_jax.cli import arguments
from esam_jax.config import SourceConfig
from esam_jax.convert import load as models
from esam_jax.data import sources
from esam_jax.errors import ConfigError
from esam_jax.evaluate import class_scores
from esam_jax.machine import compile_cache
from esam_jax.words import counted


@dataclasses.dataclass(frozen=True)
class Arguments:
    """How often the class of a picture is the likeliest, or among the five likeliest.

    Of a model that `esam train` made with the task classify, or of a file with predictions.
    """

    data: str
    """A folder with one for each class, tar archives, a data set of tensorflow-datasets, a pack."""
    model: str | None = None
    """A model folder, run folder or RUN@STEP."""
    predictions: Path | None = None
    """In place of a model, a JSON object: the name of each record, and its class or a list of
    classes, the likeliest first, by name or number."""
    images: int = 50_000
    """How many pictures at most; some are drawn where there are more."""
    labels: str | None = None
    """Of tar archives: a text file with the class of each picture."""
    split: str | None = None
    """Of tensorflow-datasets: the split to read."""
    json: bool = False
    """Print the result as JSON."""


def main(argv: Sequence[str]) -> int:
    """Prints the numbers; missing data is reported before weights are read."""
    args = arguments.parse(Arguments, argv, prog="esam evaluate classify")
    if (args.model is None) == (args.predictions is None):
        raise ConfigError("--model and --predictions are two things to measure: write one of them")
    if args.images < 1:
        raise ConfigError(f"--images is {args.images}, but must be at least 1")
    source = _source(args)
    if args.predictions is not None:
        result = class_scores.of_predictions(args.predictions, source, args.images)
    else:
        location = models.locate(str(args.model))
        compile_cache.enable()
        result = class_scores.of_model(models.model_file(location), source, args.images)
    result = {**result, "of": str(args.model or args.predictions)}
    print(json.dumps(result) if args.json else for_people(result))
    return 0


def _source(args: Arguments) -> SourceConfig:
    """The data, read as the arguments say; ConfigError for one that such data does not know."""
    found = sources.detect(args.data)
    chosen = {key: value for key in ("labels", "split") if (value := getattr(args, key))}
    for key, value in chosen.items():
        if not hasattr(found, key):
            raise ConfigError(f"--{key} is {value!r}, but {found.kind} has no such choice")
    return dataclasses.replace(found, **chosen)


def for_people(result: Mapping[str, Any]) -> str:
    """The two shares, and what they are of."""
    counts = [f"{counted(result['skipped'], 'picture')} left out"] if result["skipped"] else []
    if result.get("unanswered"):
        counts.append(f"{counted(result['unanswered'], 'picture')} without a prediction: wrong")
    noted = f" ({', '.join(counts)})" if counts else ""
    return "\n".join(
        [
            f"top-1  {result['top1']:.4f}",
            f"top-5  {result['top5']:.4f}",
            f"{counted(result['images'], 'picture')}{noted}. {result['protocol']}",
            f"data: {result['data']}",
            f"of {result['of']}; {result['seconds']} seconds",
        ]
    )
