"""`esam everything PATH --model M --out DIR`: every mask of a picture, a folder or a tar archive.

The same command resumes where it was stopped. `esam train segment_ti --data.source.kind sa1b
--data.source.path DIR` reads what it writes; `esam evaluate` does, too.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from esam_jax import outputs
from esam_jax.cli import arguments
from esam_jax.cli.progress import Progress
from esam_jax.convert import load as models
from esam_jax.data import archives, decode
from esam_jax.data.findings import Findings
from esam_jax.errors import DataError
from esam_jax.machine import compile_cache
from esam_jax.predict import load
from esam_jax.predict.everything import album, presets
from esam_jax.predict.everything.generator import AutomaticMaskGenerator
from esam_jax.predict.everything.tally import Tally
from esam_jax.words import counted

Preset = Literal["segment_anything", "efficientsam", "sa1b"]


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
    """Draw the masks of each picture done now, and a sheet of the first 60; one alone always is."""
    part: str = "0/1"
    """I/N: of N hosts that share the work, this is host I, from 0."""
    preset: Preset | None = None
    """Whose thresholds and algorithm: SAM's, those of EfficientSAM's notebook, or those by which
    SA-1B was made (20 crops, nothing of 95 % of the picture or more). SAM's algorithm, with the
    model's own thresholds where it has some, when none is named."""
    points_per_side: int = 32
    """Clicks along each side of the grid."""
    points_per_batch: int = 64
    """Clicks decoded at once."""
    pred_iou_thresh: float | None = None
    """Keep masks whose predicted IoU is above this: the model's own, or 0.88; by EfficientSAM's
    preset 0.7."""
    stability_score_thresh: float | None = None
    """Keep masks that are at least so stable: the model's own, or 0.95; above 0.9 by EfficientSAM's
    preset."""
    box_nms_thresh: float = 0.7
    """Of two masks whose boxes overlap more, the better one stays."""
    crop_n_layers: int | None = None
    """Look at 4, then 16, ... enlarged crops, too: 0; 2 by the preset of SA-1B, which has a half of
    the clicks a side in each further layer."""
    min_mask_region_area: int | None = None
    """Fill smaller holes and drop smaller islands, in pixels: 0; 100 by the presets of EfficientSAM
    and SA-1B."""
    stability_rule: Literal["full_size", "low_res"] = "full_size"
    """Count stability at the picture's size, as SAM does, or on the decoder's logits."""
    sixteen_bit: decode.SixteenBit = "upper_byte"
    """Grey values of 16 bits: their upper byte, or stretched from the lowest to the highest."""
    json: bool = False
    """Print what was done as JSON."""


# What decides about the masks, with the preset's: other values need another folder.
_SETTINGS = ("points_per_side", "box_nms_thresh", "stability_rule")


def main(argv: Sequence[str]) -> int:
    """Makes the masks, and prints what was done."""
    args = arguments.parse(Everything, argv, prog="esam everything")
    report, text = run(args)
    print(json.dumps(report) if args.json else text)
    return 0


def run(args: Everything) -> tuple[dict[str, Any], str]:
    """Makes the masks: what was done, for programs and for people.

    Album, model and folder are checked before weights are read.
    """
    part = arguments.part_of(args.part)
    pictures = archives.open_album(args.path)
    outputs.require_folder(args.out, inputs=(args.path,))
    arguments.require_writable(args.out)
    own = models.thresholds(models.locate(args.model))
    album.require_distinct(pictures)
    generator = _settled(args, own)
    names = album.waiting(pictures, args.out, part)
    tally, masks, broken, hint, noted = Tally(), 0, {}, None, []
    if names:
        single = args.path.is_file() and len(pictures.names) == 1
        found = album.run(
            generator,
            pictures,
            names,
            args.out,
            with_overlays=args.overlays or single,
            sixteen_bit=args.sixteen_bit,
            tally=tally,
            noted=noted,
        )
        shown = Progress(len(names), "mask")
        for name, outcome in shown.over(found):
            if isinstance(outcome, str):
                broken[name] = outcome
                shown.say(f"warning: {name}: {outcome}")
            else:
                shown.found = masks = masks + outcome
        for text in Findings(sorted(noted)).in_words():
            shown.say(f"warning: {text}")
        if len(broken) == len(pictures.names):
            raise DataError(
                f"no picture of {args.path} could be read: {next(iter(broken.values()))}"
            )
        hint = None if masks else _hint(tally, generator)
        if hint:
            shown.say(f"warning: {hint}")
    done = len(names) - len(broken)
    report = {"pictures": done, "masks": masks, "broken": broken, "out": str(args.out)}
    report |= {"candidates": tally.candidates, "dropped": dict(+tally.dropped), "hint": hint}
    report["left_out"] = dict(pictures.left_out)
    if args.format == "coco":
        report["listed"] = album.merge(pictures, args.out)
    if args.overlays:
        album.sheet(pictures, args.out)
    already = len(pictures.names[part[0] :: part[1]]) - len(names)
    return report, _text(report, already, len(pictures.names))


def _settled(args: Everything, own: Mapping[str, float]) -> AutomaticMaskGenerator:
    """The generator of masks, once its settings and weights are those of the folder."""
    settings = _settings(args, own)
    kept = {**settings, **_reading(args)}
    album.require_same(args.out, kept)
    compile_cache.enable()
    generator = AutomaticMaskGenerator(
        load(args.model),
        points_per_batch=args.points_per_batch,
        output_mode="coco_rle",
        **settings,
    )
    # Also where all pictures are done: masks of other weights would pass for these.
    album.settle(args.out, {**kept, "model": album.digest(generator.model)})
    return generator


def _hint(tally: Tally, generator: AutomaticMaskGenerator) -> str | None:
    """Why nothing was kept of the candidates, and what to try."""
    if not tally.candidates:
        return None
    remedy = f"{tally.remedy(generator)}, with another --out"
    return f"nothing was kept: {tally.why(generator)}; {remedy}"


def _text(report: dict[str, Any], already: int, pictures: int) -> str:
    """The report for a reader."""
    found = f"{counted(report['pictures'], 'picture')}, {counted(report['masks'], 'mask')}"
    text = f"{found} in {report['out']}; {already} done before"
    text += f"; {len(report['broken'])} could not be read" if report["broken"] else ""
    if "listed" in report:
        text += f"; {album.COCO_FILE} lists {report['listed']} of {pictures}"
    return text


def _settings(args: Everything, own: Mapping[str, float]) -> dict[str, Any]:
    """Arguments of the generator: those given, else the preset's, else the model's own or SAM's."""
    named = args.preset is not None
    preset = {"crop_n_layers": 0} | presets.preset(args.preset or "segment_anything")
    preset |= {} if named else dict(own)
    given = {name: getattr(args, name) for name in preset if hasattr(args, name)}
    given = {name: value for name, value in given.items() if value is not None}
    return {**{name: getattr(args, name) for name in _SETTINGS}, **preset, **given}


def _reading(args: Everything) -> dict[str, str]:
    """How pictures are read, unless as ever: it decides about the masks, too."""
    return {} if args.sixteen_bit == "upper_byte" else {"sixteen_bit": args.sixteen_bit}
