"""`esam evaluate edges`: edge maps of a model, or anybody's, beside the boundaries of BSDS500."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from esam_jax import files, outputs
from esam_jax.cli import arguments
from esam_jax.config import BsdsConfig
from esam_jax.convert import load as models
from esam_jax.data import parallel, sources
from esam_jax.errors import ConfigError
from esam_jax.evaluate import edge_evaluation
from esam_jax.evaluate.edge_evaluation import Scoring
from esam_jax.machine import compile_cache
from esam_jax.predict import load
from esam_jax.predict.zero_shot.edge_album import Settings
from esam_jax.report import charts
from esam_jax.report.charts import Series
from esam_jax.words import counted

_MAPS, _SCORING = Settings(), Scoring()


@dataclasses.dataclass(frozen=True)
class Arguments:
    """ODS, OIS, AP and R50 of edge maps, as the benchmark of BSDS500 has them.

    Maps of a model, as `esam edges` makes them, or a folder of anybody's: a grey PNG of 8 or 16
    bits for each picture, of its size and name; white is an edge. With --out: maps of the model,
    counts of each picture, the best and worst pictures, a curve; the same command resumes.
    """

    truth: str
    """BSDS500, or data of its layout: one map is read or made for each picture."""
    edges: Path | None = None
    """The folder of the maps, thinned or not; or --model."""
    model: str | None = None
    """A model folder, run folder, RUN@STEP, .pt, .pth or .safetensors file, or preset; or --edges.
    Needs --out."""
    split: str | None = None
    """Of the truth: train, val or test; all pictures without it."""
    thresholds: int = _SCORING.thresholds
    """How many, spread evenly between 0 and 1."""
    max_distance: float = _SCORING.max_distance
    """How far two pixels of a pair may be apart, as a share of the picture's diagonal."""
    points_per_side: int | None = None
    """Of a model: clicks along each side of the grid; 16 without it."""
    box_nms_thresh: float | None = None
    """Of a model: of two masks whose boxes overlap more, the better one stays; 0.7 without it."""
    workers: int | None = None
    """Processes; one for each processor without it. The numbers do not depend on them."""
    out: Path | None = None
    """Folder for the results; resumes what is in it."""
    json: bool = False
    """Print the result as JSON, with the best threshold of each picture."""


def main(argv: Sequence[str]) -> int:
    """Prints the numbers; what is missing is reported before weights or maps are read."""
    args = arguments.parse(Arguments, argv, prog="esam evaluate edges")
    settings = _checked(args)
    truth = sources.detect(args.truth)
    if not isinstance(truth, BsdsConfig):
        raise ConfigError(
            f"--truth {args.truth} is {truth.kind} data, which has no boundaries: name a folder of "
            "BSDS500"
        )
    truth = dataclasses.replace(truth, split=args.split)
    if args.out is not None:
        inputs = [Path(args.truth), *([] if args.edges is None else [args.edges])]
        outputs.require_folder(args.out, inputs=inputs)
        arguments.require_writable(args.out)
    scoring = Scoring(thresholds=args.thresholds, max_distance=args.max_distance)
    workers = args.workers or parallel.available()
    if args.model is None:
        assert args.edges is not None
        result = edge_evaluation.of_folder(
            args.edges, truth, scoring=scoring, workers=workers, out=args.out
        )
    else:
        assert args.out is not None
        models.locate(args.model)
        sources.open_source(truth, "")
        compile_cache.enable()
        result = edge_evaluation.of_model(
            load(args.model),
            truth,
            args.out,
            settings=settings,
            scoring=scoring,
            workers=workers,
            model=args.model,
        )
    if args.out is not None and (chart := _chart(result)):
        files.write(args.out / edge_evaluation.CURVE_FILE, chart)
    print(json.dumps(result) if args.json else _for_people(result))
    return 0


def _checked(args: Arguments) -> Settings:
    """The settings of maps; ConfigError for a wrong value, or options that do not go together."""
    if (args.edges is None) == (args.model is None):
        raise ConfigError("give --edges FOLDER or --model M: exactly one of them")
    if args.model is not None and args.out is None:
        raise ConfigError("--model needs --out, a folder for its maps, so that it can resume")
    given = {name: getattr(args, name) for name in ("points_per_side", "box_nms_thresh")}
    given = {name: value for name, value in given.items() if value is not None}
    if args.edges is not None and given:
        option = next(iter(given)).replace("_", "-")
        raise ConfigError(f"--{option} is for the maps of a --model: leave it out with --edges")
    if not 1 <= args.thresholds <= 999:
        raise ConfigError(f"--thresholds is {args.thresholds}, but must be 1 to 999")
    if not 0 < args.max_distance < 1:
        raise ConfigError(f"--max-distance is {args.max_distance}, but must be between 0 and 1")
    if args.workers is not None and args.workers < 1:
        raise ConfigError(f"--workers is {args.workers}, but must be at least 1")
    return dataclasses.replace(_MAPS, **given)


def _chart(result: Mapping[str, Any]) -> str:
    """Precision over recall, by ascending recall; "" of a single threshold."""
    points = sorted((row["recall"], row["precision"]) for row in result["curve"])
    if len(points) < 2:
        return ""
    best = [(result["recall"], 0.0), (result["recall"], result["precision"])]
    series = [Series("all pictures", points), Series("ODS", best, reference=True)]
    return charts.document(f"precision (ODS {result['ODS']:.3f})", series, below="recall")


def _for_people(result: Mapping[str, Any]) -> str:
    """The four numbers, and what they are of."""
    ods = ", ".join(f"{name} {result[name]:.4f}" for name in ("recall", "precision", "threshold"))
    ois = ", ".join(f"{name} {result[f'OIS_{name}']:.4f}" for name in ("recall", "precision"))
    lines = [
        f"ODS  {result['ODS']:.4f}  ({ods})",
        f"OIS  {result['OIS']:.4f}  ({ois})",
        f"AP   {result['AP']:.4f}",
        f"R50  {result['R50']:.4f}",
    ]
    for row in result["published"]["rows"]:
        numbers = (f"{name} {row[name]:.3f}" for name in ("ODS", "OIS", "AP", "R50") if name in row)
        lines.append(f"published ({row['source']}): {row['model']}, {', '.join(numbers)}")
    lines += [f"no published numbers: {reason}" for reason in result["published"]["left_out"]]
    skipped = result["skipped"]
    left_out = f" ({counted(skipped, 'broken picture')} left out)" if skipped else ""
    lines.append(f"{counted(result['images'], 'picture')}{left_out}: {result['protocol']}")
    if "model" in result:
        lines.append(f"model {result['model']}: {result['model_hash']}")
    done = result["resumed"]
    resumed = f"; {counted(done, 'picture')} counted before" if done else ""
    return "\n".join([*lines, f"data: {result['data']}; {result['seconds']} seconds{resumed}"])
