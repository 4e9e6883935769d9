"""`esam engine semi PATH --model M --annotations EXISTING.json --out DIR`: only doubts are asked.

The same command resumes where it was stopped.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from esam_jax import files, outputs
from esam_jax.cli import arguments, engine_assist
from esam_jax.engine import asking, corrections, exchange
from esam_jax.errors import ConfigError, DataError
from esam_jax.words import counted


@dataclasses.dataclass(frozen=True)
class Semi(engine_assist.Proposals):
    """Confident masks as annotated already, beside those that are, and questions about the rest.

    DIR/proposed.json has the pictures with questions, which have the category `question`: give an
    object another one, redraw it or remove it, and add what is missing. Then give the tool's json
    to `esam engine merge DIR CORRECTED.json`.
    """

    annotations: Path | None = None
    """COCO json of what is annotated in these pictures; nothing is, without it."""
    pred_iou_thresh: float = 0.88
    """A mask is annotated automatically from this predicted IoU on,"""
    stability_score_thresh: float = 0.95
    """and if it is at least so stable."""
    asked_iou_thresh: float = 0.5
    """Ask about masks whose predicted IoU is above this,"""
    asked_stability_thresh: float = 0.6
    """and that are at least so stable."""
    most_overlap: float = 0.1
    """Share of a mask that may lie in what is annotated."""
    least_region: float = 0.01
    """Share of the picture from which a part that nothing covers is asked about."""


@dataclasses.dataclass(frozen=True)
class _Candidates(engine_assist.Proposals):
    """The thresholds by which masks are candidates."""

    pred_iou_thresh: float = 0.5
    stability_score_thresh: float = 0.6


def main(argv: Sequence[str]) -> int:
    """Makes the masks, sorts them, and prints how much is left to do."""
    args = arguments.parse(Semi, argv, prog="esam engine semi")
    names = [field.name for field in dataclasses.fields(asking.Confidence)]
    confidence = asking.Confidence(**{name: getattr(args, name) for name in names})
    pairs = (("iou", "pred_iou"), ("stability", "stability_score"))
    for asked, sure in ((f"asked_{x}_thresh", f"{y}_thresh") for x, y in pairs):
        if getattr(args, asked) > getattr(args, sure):
            raise ConfigError(
                f"--{asked.replace('_', '-')} is {getattr(args, asked)}, but must not be above "
                f"--{sure.replace('_', '-')} {getattr(args, sure)}"
            )
    content, existing = b'{"images": [], "annotations": []}', {"images": [], "annotations": []}
    if args.annotations is not None:
        outputs.require_folder(args.out, inputs=(args.annotations,))
        file = args.annotations
        content = files.read(str(file), file.read_bytes, "name a COCO json")
        existing = files.json_object(content, str(file), error=DataError, finite=False)
    shared = [field.name for field in dataclasses.fields(engine_assist.Proposals)]
    candidates = _Candidates(
        **{name: getattr(args, name) for name in shared},
        pred_iou_thresh=args.asked_iou_thresh,
        stability_score_thresh=args.asked_stability_thresh,
    )
    settings = {"stage": "semi", **dataclasses.asdict(confidence)}
    settings["annotations"] = hashlib.sha256(content).hexdigest()[:32]
    report = engine_assist.found(candidates, settings)
    where = None if args.annotations is None else str(args.annotations)
    proposals, counts = asking.semi_automatic(args.out, existing, where, confidence)
    report |= counts
    texts = list(report["broken_annotations"])
    if unknown := report["unknown"]:
        others = f"{counted(len(unknown), 'picture')} not in {args.path}"
        texts.append(f"{others}, the first {unknown[0]!r}: not used")
    for text in texts:
        print(f"esam: warning: {where}: {text}", file=sys.stderr)
    engine_assist.finish(args, proposals, report)
    data = corrections.write(args.out, proposals)  # of pictures without a question
    report["data_pictures"] = len(data["images"])
    if args.json:
        print(json.dumps(report))
        return 0
    given = f"{report['given']} given, {report['automatic']} automatic"
    asked = f"{report['low_confidence']} of low confidence, {report['uncovered']} parts uncovered"
    print(f"{given}; asked: {asked}, in {counted(report['waiting'], 'picture')}")
    settled = counted(report["data_pictures"], "picture")
    print(f"{settled} without a question in {args.out / exchange.INSTANCES_FILE}")
    if report["waiting"]:
        print(f"answer {args.out / exchange.PROPOSED_FILE}, then")
        print(f"esam engine merge {args.out} CORRECTED.json")
    return 0
