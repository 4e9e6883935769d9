"""`esam evaluate instances`: masks from the boxes of a detector, and their average precision."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from esam_jax import outputs
from esam_jax.cli import arguments
from esam_jax.convert import load as models
from esam_jax.data import findings
from esam_jax.data.findings import KINDS
from esam_jax.evaluate import average_precision, detections, ground_truth, instances
from esam_jax.evaluate.instances import Choice, Instances, Rules
from esam_jax.machine import compile_cache
from esam_jax.predict import load
from esam_jax.report import measured
from esam_jax.words import counted


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Mask AP of the masks that a model finds for the boxes of a detector.

    Scores and categories are the detector's; AP by pycocotools, or by hotcoco for LVIS. With --out:
    masks.json, a results file of COCO; the same command resumes where it was stopped.
    """

    model: str
    """A model folder, run folder, RUN@STEP, .pt, .pth or .safetensors file, or preset."""
    data: Path
    """A COCO or LVIS json, or its picture folder."""
    boxes: Path
    """A results file of COCO: a list of {image_id, category_id, bbox, score}."""
    choose: Choice = "confident"
    """Of the candidates: the most confident one, or the one whose IoU with the box is highest."""
    refine: bool = False
    """A second pass with the box and the logits of the mask that was chosen."""
    annotations: Rules = "coco"
    """Whose rules count: COCO's, or LVIS's (the extra `eval`)."""
    sixteen_bit: Literal["upper_byte", "stretch"] = "upper_byte"
    """Grey values of 16 bits: their upper byte, or stretched from the lowest to the highest."""
    out: Path | None = None
    """Folder for masks.json and result.json; resumes what is in it."""
    json: bool = False
    """Print the result as JSON."""


def main(argv: Sequence[str]) -> int:
    """Prints the numbers; what cannot be read is reported before weights are."""
    args = arguments.parse(Arguments, argv, prog="esam evaluate instances")
    if args.annotations == "lvis":
        average_precision.require_lvis()
    if args.out is not None:
        outputs.require_folder(args.out, inputs=(args.data, args.boxes))
        arguments.require_writable(args.out)
    models.locate(args.model)
    truth = ground_truth.read(args.data, lvis=args.annotations == "lvis")
    found = detections.read(args.boxes, truth)
    compile_cache.enable()
    how = Instances(choose=args.choose, refine=args.refine, annotations=args.annotations)
    result = instances.evaluate(
        load(args.model),
        truth,
        found,
        how,
        out=args.out,
        model=args.model,
        sixteen_bit=args.sixteen_bit,
    )
    if args.out is not None:
        measured.write(args.out, (), args.out / instances.OBJECTS_FILE)
    print(json.dumps(result) if args.json else for_people(result))
    return 0


def for_people(result: Mapping[str, Any]) -> str:
    """A table, and what it is of."""
    names = list(result["ap"])
    rows = [("", *names)]
    for title, numbers in (("masks", result["ap"]), ("boxes", result["box_ap"])):
        rows.append((title, *(f"{numbers[name]:.4f}" for name in names)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    for row in result["published"]["rows"]:
        lines.append(
            f"published ({row['source']}; {row['note']}): {row['model']}, {row['number']} "
            f"{row['ap']:.3f}"
        )
    lines += [f"no published numbers: {reason}" for reason in result["published"]["left_out"]]
    broken = result["skipped"]
    counts = [f"{counted(broken, 'broken picture')} left out"] if broken else []
    counts += [findings.in_words(kind, result[kind]) for kind in KINDS if result.get(kind)]
    noted = f" ({', '.join(counts)})" if counts else ""
    masks, images = counted(result["masks"], "mask"), counted(result["images"], "picture")
    lines.append(f"{masks} in {images}{noted}. {result['protocol']}")
    checked = f", hotcoco differs by {result['difference']:g}" if "difference" in result else ""
    lines.append(f"by {result['by']}{checked}")
    lines.append(f"data: {result['data']}; boxes: {result['boxes']}")
    done = result["resumed"]
    resumed = f", {counted(done, 'picture')} done before" if done else ""
    lines.append(f"model {result['model']}: {result['model_hash']}")
    return "\n".join([*lines, f"{result['seconds']} seconds{resumed}"])
