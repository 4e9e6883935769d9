"""`esam engine assist PATH --model M --out DIR`: a model's masks for a person to correct.

The same command resumes where it was stopped, and takes in pictures that were added.
"""

import dataclasses
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from esam_jax import files, outputs
from esam_jax.cli import arguments, everything
from esam_jax.convert import load as models
from esam_jax.data import archives
from esam_jax.engine import asking, exchange
from esam_jax.predict.everything import album
from esam_jax.words import counted


@dataclasses.dataclass(frozen=True)
class Proposals:
    """What the model looks for in pictures; `esam everything --help` says more."""

    path: tyro.conf.Positional[Path]
    """A picture, a folder of pictures at any depth, or a tar archive."""
    model: str
    """A model folder, run folder, .pt, .pth or .safetensors file, or preset."""
    out: Path
    """Folder for pictures and proposals; what is done there already is not done again."""
    points_per_side: int = 32
    """Clicks along each side of the grid."""
    points_per_batch: int = 64
    """Clicks decoded at once."""
    box_nms_thresh: float = 0.7
    """Of two masks whose boxes overlap more, the better one stays."""
    min_mask_region_area: int | None = None
    """Fill smaller holes and drop smaller islands, in pixels."""
    segmentation: exchange.Form = "rle"
    """Form of the masks in proposed.json: polygons for tools that read no run lengths. Masks with
    holes, and those that polygons do not give exactly, stay run lengths."""
    json: bool = False
    """Print what was done as JSON."""


@dataclasses.dataclass(frozen=True)
class Assist(Proposals):
    """Masks of pictures as COCO json, DIR/proposed.json, which any annotation tool opens.

    Correct them there, then give the tool's json to `esam engine merge DIR CORRECTED.json`.
    """

    pred_iou_thresh: float | None = None
    """Propose masks whose predicted IoU is above this: the model's own, or 0.88."""
    stability_score_thresh: float | None = None
    """Propose masks that are at least so stable: the model's own, or 0.95."""


def main(argv: Sequence[str]) -> int:
    """Makes the masks, writes the proposals, and prints what to do with them."""
    args = arguments.parse(Assist, argv, prog="esam engine assist")
    report = found(args, {"stage": "assist"})
    content = asking.assisted(args.out)
    report["masks"] = len(content["annotations"])
    finish(args, content, report)
    if args.json:
        print(json.dumps(report))
        return 0
    masks, waiting = counted(report["masks"], "mask"), counted(report["waiting"], "picture")
    print(f"{masks} proposed in {waiting}; correct {args.out / exchange.PROPOSED_FILE}, then")
    print(f"esam engine merge {args.out} CORRECTED.json")
    return 0


def found(args: Proposals, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The report of `esam everything` in `images/`, once the folder is settled."""
    outputs.require_folder(args.out, inputs=(args.path,))
    arguments.require_writable(args.out)
    models.locate(args.model)
    with warnings.catch_warnings(action="ignore"):  # which come again
        archives.open_album(args.path)
    shared = [field.name for field in dataclasses.fields(everything.Everything)]
    given = {name: getattr(args, name) for name in shared if hasattr(args, name)}
    given["out"] = args.out / exchange.IMAGES
    album.settle(args.out, dict(settings), exchange.SETTINGS_FILE, exchange.RESULTS)
    report, _ = everything.run(everything.Everything(**given))
    return {"out": str(args.out), **{key: report[key] for key in ("pictures", "masks", "broken")}}


def finish(args: Proposals, content: Mapping[str, Any], report: dict[str, Any]) -> None:
    """Writes the proposals, and says where a person's own json was left alone."""
    out = args.out
    (out / exchange.KEPT).mkdir(exist_ok=True)
    files.remove_unfinished(out / exchange.KEPT)
    report["waiting"] = len(exchange.waiting(content)["images"])
    report["written"] = exchange.write_proposed(out, content, args.segmentation)
    if not report["written"]:
        file = out / exchange.PROPOSED_FILE
        print(
            f"esam: warning: {file} was edited and is left alone: give it to esam engine merge, or "
            "move it away and run the same command for all proposals",
            file=sys.stderr,
        )
