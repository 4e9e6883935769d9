"""`esam edges PATH --model M --out DIR`: edge maps of a picture, a folder or a tar archive.

The same command resumes where it was stopped. `esam evaluate edges --edges DIR` scores the maps.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from esam_jax.predict.everything import album
from esam_jax.predict.sam import Sam
from esam_jax.predict.zero_shot import edge_album
from esam_jax.predict.zero_shot.edge_album import Settings
from esam_jax.words import counted

_DEFAULT = Settings()


@dataclasses.dataclass(frozen=True)
class Edges:
    """Edges of pictures, without training for them: NAME.png for each, grey with 16 bits.

    SAM's protocol (arXiv:2304.02643, D.2); white is the strongest edge.
    """

    path: tyro.conf.Positional[Path]
    """A picture, a folder of pictures at any depth, or a tar archive."""
    model: str
    """A model folder, run folder, .pt, .pth or .safetensors file, or preset."""
    out: Path
    """Folder for the maps; what is done there already is not done again."""
    overlays: bool = False
    """Draw each map done now beside its picture, and a sheet of the first 60; one picture alone
    always has it."""
    part: str = "0/1"
    """I/N: of N hosts that share the work, this is host I, from 0."""
    points_per_side: int = _DEFAULT.points_per_side
    """Clicks along each side of the grid."""
    points_per_batch: int = 64
    """Clicks decoded at once."""
    box_nms_thresh: float = _DEFAULT.box_nms_thresh
    """Of two masks whose boxes overlap more, the better one stays; not published."""
    thick: bool = False
    """Leave the maps as they are, without thinning."""
    sixteen_bit: decode.SixteenBit = "upper_byte"
    """Grey values of 16 bits: their upper byte, or stretched from the lowest to the highest."""
    json: bool = False
    """Print what was done as JSON."""


def main(argv: Sequence[str]) -> int:
    """Album, model and folder are checked before weights are read."""
    args = arguments.parse(Edges, argv, prog="esam edges")
    part = arguments.part_of(args.part)
    pictures = archives.open_album(args.path)
    outputs.require_folder(args.out, inputs=(args.path,))
    arguments.require_writable(args.out)
    models.locate(args.model)
    edge_album.require_distinct(pictures.names)
    sam = _settled(args)
    names = edge_album.waiting(pictures, args.out, part)
    report = _done(args, sam, pictures, names)
    report["left_out"] = dict(pictures.left_out)
    if args.overlays:
        edge_album.sheet(pictures, args.out)
    already = len(pictures.names[part[0] :: part[1]]) - len(names)
    print(json.dumps(report) if args.json else _text(report, already))
    return 0


def _settled(args: Edges) -> Sam:
    """The model, once its settings and weights are those of the folder."""
    kept = {**dataclasses.asdict(_settings(args)), "sixteen_bit": args.sixteen_bit}
    where = (edge_album.SETTINGS_FILE, edge_album.RESULTS)
    album.require_same(args.out, kept, *where)
    compile_cache.enable()
    sam = load(args.model)
    # Also where all pictures are done: maps of other weights would pass for these.
    album.settle(args.out, {**kept, "model": album.digest(sam)}, *where)
    return sam


def _settings(args: Edges) -> Settings:
    return Settings(
        points_per_side=args.points_per_side,
        box_nms_thresh=args.box_nms_thresh,
        thin=not args.thick,
    )


def _done(args: Edges, sam: Sam, pictures: archives.Album, names: list[str]) -> dict[str, Any]:
    """Writes the maps of these names; what there is to report."""
    broken, empty, pixels, noted = {}, [], 0, []
    found = edge_album.run(
        sam,
        pictures,
        names,
        args.out,
        _settings(args),
        points_per_batch=args.points_per_batch,
        with_overlays=args.overlays or (args.path.is_file() and len(pictures.names) == 1),
        sixteen_bit=args.sixteen_bit,
        noted=noted,
    )
    shown = Progress(len(names), "edge pixel")
    for name, outcome in shown.over(found):
        if isinstance(outcome, str):
            broken[name] = outcome
            shown.say(f"warning: {name}: {outcome}")
            continue
        shown.found = pixels = pixels + outcome
        if not outcome:
            empty.append(name)
            shown.say(f"warning: {name}: no edge at all, its map is black")
    for text in Findings(sorted(noted)).in_words():
        shown.say(f"warning: {text}")
    if names and len(broken) == len(pictures.names):
        raise DataError(f"no picture of {args.path} could be read: {next(iter(broken.values()))}")
    done = len(names) - len(broken)
    report = {"pictures": done, "edge_pixels": pixels, "broken": broken, "empty": empty}
    return {**report, "out": str(args.out)}


def _text(report: dict[str, Any], already: int) -> str:
    """The report for a reader."""
    text = f"{counted(report['pictures'], 'edge map')} in {report['out']}; {already} done before"
    return text + (f"; {len(report['broken'])} could not be read" if report["broken"] else "")
