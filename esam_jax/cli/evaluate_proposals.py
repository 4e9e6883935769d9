"""`esam evaluate proposals`: object proposals of a model, or anybody's, and their recall."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from esam_jax import outputs
from esam_jax.cli import arguments, proposals, score_tables
from esam_jax.convert import load as models
from esam_jax.errors import ConfigError
from esam_jax.evaluate import ground_truth, proposal_recall, proposal_scores, results
from esam_jax.machine import compile_cache
from esam_jax.predict import load
from esam_jax.predict.zero_shot.proposals import Output, Ranking
from esam_jax.report import measured
from esam_jax.words import counted


@dataclasses.dataclass(frozen=True)
class Arguments:
    """AR of the object proposals of a model, as Segment Anything does it, or of anybody's results.

    Class-agnostic, of masks and of boxes, by COCO's sizes and by LVIS's frequencies. With --out:
    proposals.json, a results file of COCO; the same command resumes where it was stopped. --results
    needs no model.
    """

    data: Path
    """A COCO or LVIS json, or its picture folder."""
    model: str | None = None
    """A model folder, run folder, RUN@STEP, .pt, .pth or .safetensors file, or preset."""
    results: Path | None = None
    """Instead of a model, what is scored: a results file of COCO with masks, or boxes; or a folder
    of such files."""
    output: Output = "three"
    """The masks of a click: three candidates, or the single mask, which is the paper's ablation."""
    points_per_side: int | None = None
    """Clicks along each side of the grid: 64; 128 for the single mask."""
    points_per_batch: int = 64
    """Clicks decoded at once."""
    box_nms_thresh: float | None = None
    """Of two masks whose boxes overlap more, one stays: 0.9; 0.95 for the single mask."""
    most: int | None = None
    """Masks of a picture that are kept, by the ranking: 1000."""
    ranking: Ranking | None = None
    """By the mean of predicted IoU and stability, or at random, as for the single mask."""
    images: int | None = None
    """So many of the pictures that have an object, drawn with seed 0; all without it."""
    sixteen_bit: Literal["upper_byte", "stretch"] = "upper_byte"
    """Grey values of 16 bits: their upper byte, or stretched from the lowest to the highest."""
    out: Path | None = None
    """Folder for proposals.json and result.json; resumes what is in it."""
    json: bool = False
    """Print the result as JSON."""


_OF_MODEL = (
    "model",
    *("output", "points_per_side", "points_per_batch", "box_nms_thresh", "most", "ranking"),
    *("images", "sixteen_bit", "out"),
)


def main(argv: Sequence[str]) -> int:
    """Prints the numbers; what cannot be read is reported before weights are."""
    args = arguments.parse(Arguments, argv, prog="esam evaluate proposals")
    if args.results is not None:
        arguments.require_defaults(args, _OF_MODEL, "--results scores what is there, and takes no")
        truth = ground_truth.read(args.data, files_of_pictures=False)
        found = results.read(args.results, truth, any_category=True)
        result = proposal_scores.of_results(truth, found)
    elif args.model is not None:
        result = _of_model(args, args.model)
    else:
        raise ConfigError("give --model or --results: it says what is measured")
    print(json.dumps(result) if args.json else for_people(result))
    return 0


def _of_model(args: Arguments, model: str) -> dict[str, Any]:
    """The scores of what a model proposes."""
    if args.images is not None and args.images < 1:
        raise ConfigError(f"--images is {args.images}, but at least 1 is needed")
    if args.out is not None:
        outputs.require_folder(args.out, inputs=(args.data,))
        arguments.require_writable(args.out)
    models.locate(model)
    truth = ground_truth.read(args.data)
    compile_cache.enable()
    result = proposal_recall.evaluate(
        load(model),
        truth,
        proposals.settings(args),
        out=args.out,
        model=model,
        images=args.images,
        points_per_batch=args.points_per_batch,
        sixteen_bit=args.sixteen_bit,
    )
    if args.out is not None:
        measured.write(args.out, (), args.out / proposal_recall.OBJECTS_FILE)
    return result


def for_people(result: Mapping[str, Any]) -> str:
    """A table, published numbers below ours, and what they are of."""
    rows = {"masks": result["ar"], "boxes": result["box_ar"]}
    names = list(result["box_ar"])
    beside = result["published"]
    for row in beside["rows"]:
        rows[f"published: {row['model']}"] = {name: row[name] for name in names if name in row}
    lines = score_tables.of_numbers(rows)
    notes = {f"published, masks ({row['source']}): {row['note']}" for row in beside["rows"]}
    lines += [*sorted(notes), *(f"no published numbers: {each}" for each in beside["left_out"])]
    found, images = counted(result["proposals"], "proposal"), counted(result["images"], "picture")
    objects = counted(result["objects"]["all"], "object")
    noted = score_tables.noted(result)
    lines.append(f"{found} for {objects} in {images}{noted}. {result['protocol']}")
    return "\n".join([*lines, *score_tables.sources(result)])
