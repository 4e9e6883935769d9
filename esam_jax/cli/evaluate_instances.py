"""`esam evaluate instances`: masks from the boxes of a detector, or anybody's, and their AP."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from esam_jax import outputs
from esam_jax.cli import arguments, score_tables
from esam_jax.convert import load as models
from esam_jax.errors import ConfigError
from esam_jax.evaluate import (
    average_precision,
    detections,
    ground_truth,
    instance_scores,
    instances,
    results,
)
from esam_jax.evaluate.average_precision import Rules
from esam_jax.evaluate.ground_truth import Truth
from esam_jax.evaluate.instances import Choice, Instances
from esam_jax.machine import compile_cache
from esam_jax.predict import load
from esam_jax.report import measured
from esam_jax.words import counted


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Mask AP of the masks that a model finds for the boxes of a detector, or of anybody's results.

    Scores and categories are the detector's; AP by pycocotools, or by hotcoco for LVIS. With --out:
    masks.json, a results file of COCO; the same command resumes where it was stopped. --results
    needs no model.
    """

    data: Path
    """A COCO or LVIS json, or its picture folder."""
    model: str | None = None
    """A model folder, run folder, RUN@STEP, .pt, .pth or .safetensors file, or preset."""
    boxes: Path | None = None
    """A results file of COCO: a list of {image_id, category_id, bbox, score}."""
    results: Path | None = None
    """Instead of a model and boxes, what is scored: a results file of COCO with masks, or boxes; or
    a folder of such files."""
    choose: Choice = "confident"
    """Of the candidates: the most confident one, or the one whose IoU with the box is highest."""
    refine: bool = False
    """A second pass with the box and the logits of the mask that was chosen."""
    annotations: Rules | None = None
    """Whose rules count: COCO's, or LVIS's (the extra `eval`); without it those of the data."""
    max_detections: int | None = None
    """Of --results by the rules of LVIS: the best so many of each picture count, 300 at most."""
    sixteen_bit: Literal["upper_byte", "stretch"] = "upper_byte"
    """Grey values of 16 bits: their upper byte, or stretched from the lowest to the highest."""
    out: Path | None = None
    """Folder for masks.json and result.json; resumes what is in it."""
    json: bool = False
    """Print the result as JSON."""


def main(argv: Sequence[str]) -> int:
    """Prints the numbers; what cannot be read is reported before weights are."""
    args = arguments.parse(Arguments, argv, prog="esam evaluate instances")
    if args.results is not None:
        result = _of_results(args, args.results)
    elif args.model is not None and args.boxes is not None:
        result = _of_model(args, args.model, args.boxes)
    else:
        raise ConfigError("give --model and --boxes, or --results alone: it says what is measured")
    print(json.dumps(result) if args.json else for_people(result))
    return 0


def _of_results(args: Arguments, file: Path) -> dict[str, Any]:
    """The scores of anybody's results."""
    arguments.require_defaults(args, _OF_MODEL, "--results scores what is there, and takes no")
    most = average_precision.LVIS_LIMIT
    if args.max_detections is not None and not 1 <= args.max_detections <= most:
        raise ConfigError(f"--max-detections is {args.max_detections}, but must be 1 to {most}")
    truth, rules = _truth(args, files_of_pictures=False)
    if args.max_detections is not None and rules != "lvis":
        raise ConfigError("--max-detections counts by the rules of LVIS: add --annotations lvis")
    found = results.read(file, truth)
    return instance_scores.of_results(truth, found, rules, args.max_detections)


def _truth(args: Arguments, *, files_of_pictures: bool) -> tuple[Truth, Rules]:
    """The data, and whose rules count: those that are named, else those of the data."""
    if args.annotations == "lvis":
        average_precision.require_lvis()
    lvis = None if args.annotations is None else args.annotations == "lvis"
    truth = ground_truth.read(args.data, lvis=lvis, files_of_pictures=files_of_pictures)
    rules: Rules = args.annotations or ("lvis" if truth.is_lvis else "coco")
    if rules == "lvis":
        average_precision.require_lvis()
    return truth, rules


_OF_MODEL = ("model", "boxes", "choose", "refine", "sixteen_bit", "out")


def _of_model(args: Arguments, model: str, boxes: Path) -> dict[str, Any]:
    """The scores of the masks that a model finds."""
    arguments.require_defaults(args, ("max_detections",), "without --results there is no")
    if args.out is not None:
        outputs.require_folder(args.out, inputs=(args.data, boxes))
        arguments.require_writable(args.out)
    models.locate(model)
    truth, rules = _truth(args, files_of_pictures=True)
    found = detections.read(boxes, truth)
    compile_cache.enable()
    how = Instances(choose=args.choose, refine=args.refine, annotations=rules)
    result = instances.evaluate(
        load(model),
        truth,
        found,
        how,
        out=args.out,
        model=model,
        sixteen_bit=args.sixteen_bit,
    )
    if args.out is not None:
        measured.write(args.out, (), args.out / instances.OBJECTS_FILE)
    return result


def for_people(result: Mapping[str, Any]) -> str:
    """A table, and what it is of."""
    lines = score_tables.of_numbers({"masks": result["ap"], "boxes": result["box_ap"]})
    beside = result.get("published", {"rows": [], "left_out": []})
    for row in beside["rows"]:
        lines.append(
            f"published ({row['source']}; {row['note']}): {row['model']}, {row['number']} "
            f"{row['ap']:.3f}"
        )
    lines += [f"no published numbers: {reason}" for reason in beside["left_out"]]
    masks, images = counted(result["masks"], "mask"), counted(result["images"], "picture")
    if result["ap"] is None:
        masks = counted(result["masks"], "box", "boxes")
    lines.append(f"{masks} in {images}{score_tables.noted(result)}. {result['protocol']}")
    checked = f", hotcoco differs by {result['difference']:g}" if "difference" in result else ""
    lines.append(f"by {result['by']}{checked}")
    return "\n".join([*lines, *score_tables.sources(result)])
