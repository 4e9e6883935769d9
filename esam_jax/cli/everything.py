"""`esam everything PATH --model M --out DIR`: every mask of a picture, a folder or a tar archive.

The same command goes on where it was stopped. `esam train segment_ti --data.source.kind sa1b
--data.source.path DIR` reads what it writes; `esam evaluate` does, too.
"""

import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro
from tqdm import tqdm

from esam_jax.cli import arguments, compile_cache
from esam_jax.convert import source as models
from esam_jax.data import albums
from esam_jax.errors import ConfigError, DataError
from esam_jax.predict import everything
from esam_jax.predict.automatic import AutomaticMaskGenerator
from esam_jax.predict.load import load


@dataclasses.dataclass(frozen=True)
class Everything:
    """Masks of everything in pictures: sa_<number>.jpg and .json for each, in SA-1B's layout."""

    path: tyro.conf.Positional[Path]
    """A picture, a folder of pictures at any depth, or a tar archive."""
    model: str
    """A model folder, run folder, .pt, .pth or .safetensors file, or preset."""
    out: Path
    """Folder for the results; what is done there already is not done again."""
    format: Literal["sa1b", "coco"] = "sa1b"
    """coco writes instances.json of all pictures, too."""
    overlays: bool = False
    """Draw the masks of each picture; those of a single picture always are."""
    part: str = "0/1"
    """I/N: of N hosts that share the work, this is host I, from 0."""
    points_per_side: int = 32
    """Clicks along each side of the grid."""
    points_per_batch: int = 64
    """Clicks decoded at once."""
    pred_iou_thresh: float = 0.88
    """Keep masks whose predicted IoU is above this."""
    stability_score_thresh: float = 0.95
    """Keep masks that are at least so stable."""
    box_nms_thresh: float = 0.7
    """Of two masks whose boxes overlap more, the better one stays."""
    crop_n_layers: int = 0
    """Look at 4, then 16, ... enlarged crops, too."""
    min_mask_region_area: int = 0
    """Fill smaller holes and drop smaller islands, in pixels."""
    stability_rule: Literal["full_size", "low_res"] = "full_size"
    """Count stability at the picture's size, as SAM does, or on the decoder's logits."""
    json: bool = False
    """Print what was done as JSON."""


# What decides about the masks: other values need another folder.
_SETTINGS = (
    "model",
    "points_per_side",
    "pred_iou_thresh",
    "stability_score_thresh",
    "box_nms_thresh",
    "crop_n_layers",
    "min_mask_region_area",
    "stability_rule",
)


def main(argv: Sequence[str]) -> int:
    """Album, model and folder are checked before weights are read."""
    args = arguments.parse(Everything, argv, prog="esam everything")
    part = _part(args.part)
    album = albums.open_album(args.path)
    arguments.require_writable(args.out)
    models.locate(args.model)
    everything.settle(args.out, {name: getattr(args, name) for name in _SETTINGS})
    names = everything.waiting(album, args.out, part)
    masks, broken = 0, {}
    if names:
        single = args.path.is_file() and len(album.names) == 1
        found = everything.run(
            _generator(args), album, names, args.out, overlays=args.overlays or single
        )
        shown = tqdm(found, total=len(names), unit="picture", disable=not sys.stderr.isatty())
        for name, outcome in shown:
            if isinstance(outcome, str):
                broken[name] = outcome
                tqdm.write(f"esam: warning: {name}: {outcome}", file=sys.stderr)
            else:
                masks += outcome
                shown.set_postfix(masks=masks)
        if len(broken) == len(album.names):
            raise DataError(
                f"no picture of {args.path} could be read: {next(iter(broken.values()))}"
            )
    done = len(names) - len(broken)
    report = {"pictures": done, "masks": masks, "broken": broken, "out": str(args.out)}
    if args.format == "coco":
        report["listed"] = everything.merge(album, args.out)
    already = len(album.names[part[0] :: part[1]]) - len(names)
    text = f"{done} pictures, {masks} masks in {args.out}; {already} were done before"
    text += f"; {len(broken)} could not be read" if broken else ""
    print(json.dumps(report) if args.json else text)
    return 0


def _generator(args: Everything) -> AutomaticMaskGenerator:
    compile_cache.enable()
    return AutomaticMaskGenerator(
        load(args.model),
        points_per_side=args.points_per_side,
        points_per_batch=args.points_per_batch,
        pred_iou_thresh=args.pred_iou_thresh,
        stability_score_thresh=args.stability_score_thresh,
        box_nms_thresh=args.box_nms_thresh,
        crop_n_layers=args.crop_n_layers,
        min_mask_region_area=args.min_mask_region_area,
        output_mode="coco_rle",
        stability_rule=args.stability_rule,
    )


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not match or not int(match[1]) < int(match[2]):
        raise ConfigError(f"--part is {text!r}, but must be I/N with I from 0 to below N")
    return int(match[1]), int(match[2])
