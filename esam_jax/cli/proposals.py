"""`esam proposals PATH --model M --out DIR`: masks of pictures that may be objects, ranked.

The same command resumes where it was stopped. `esam evaluate proposals --results` reads what it
writes.
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
from esam_jax.data.findings import Finding, Findings
from esam_jax.errors import DataError
from esam_jax.evaluate import ground_truth
from esam_jax.machine import compile_cache
from esam_jax.predict import load
from esam_jax.predict.everything import album as albums
from esam_jax.predict.zero_shot import proposal_album
from esam_jax.predict.zero_shot.proposals import PAPER, Output, ProposalSettings, Ranking
from esam_jax.words import counted


@dataclasses.dataclass(frozen=True)
class Proposals:
    """Object proposals of pictures as Segment Anything makes them: results.json, as COCO has it.

    A grid of 64 x 64 clicks, no threshold of quality, NMS at 0.9, the best 1000 by the mean of
    predicted IoU and stability, which is their score.
    """

    path: tyro.conf.Positional[Path]
    """A picture, a folder of pictures at any depth, or a tar archive."""
    model: str
    """A model folder, run folder, .pt, .pth or .safetensors file, or preset."""
    out: Path
    """Folder for the results; what is done there already is not done again."""
    ids: Path | None = None
    """A COCO json that lists the pictures: its ids are theirs. Without it, a name's own number."""
    overlays: bool = False
    """Draw the best 20 on each picture done now, and a sheet of the first 60 pictures."""
    part: str = "0/1"
    """I/N: of N hosts that share the work, this is host I, from 0."""
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
    sixteen_bit: decode.SixteenBit = "upper_byte"
    """Grey values of 16 bits: their upper byte, or stretched from the lowest to the highest."""
    json: bool = False
    """Print what was done as JSON."""


def settings(args: Any) -> ProposalSettings:
    """The paper's settings for the output, with those that are given."""
    names = ("points_per_side", "box_nms_thresh", "most", "ranking")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return dataclasses.replace(PAPER[args.output], **given)


def main(argv: Sequence[str]) -> int:
    """Album, model and folder are checked before weights are read."""
    args = arguments.parse(Proposals, argv, prog="esam proposals")
    part = arguments.part_of(args.part)
    pictures = archives.open_album(args.path)
    inputs = (args.path,) if args.ids is None else (args.path, args.ids)
    outputs.require_folder(args.out, inputs=inputs)
    arguments.require_writable(args.out)
    models.locate(args.model)
    ids, ids_of = _ids(args, pictures)
    how = settings(args)
    kept = {**dataclasses.asdict(how), "sixteen_bit": args.sixteen_bit, "ids": ids_of}
    names = (proposal_album.SETTINGS_FILE, proposal_album.RESULTS)
    albums.require_same(args.out, kept, *names)
    compile_cache.enable()
    sam = load(args.model)
    how.require(sam)
    albums.settle(args.out, {**kept, "model": albums.digest(sam)}, *names)
    waiting = proposal_album.waiting(ids, args.out, part)
    masks, broken, noted = 0, {}, []
    shown = Progress(len(waiting), "mask")
    found = proposal_album.run(
        sam,
        pictures,
        ids,
        waiting,
        args.out,
        how,
        points_per_batch=args.points_per_batch,
        with_overlays=args.overlays or (args.path.is_file() and len(ids) == 1),
        sixteen_bit=args.sixteen_bit,
        noted=noted,
    )
    for name, outcome in shown.over(found):
        if isinstance(outcome, str):
            broken[name] = outcome
            shown.say(f"warning: {name}: {outcome}")
        else:
            shown.found = masks = masks + outcome
    _report(args, pictures, ids, waiting, part, {"masks": masks, "broken": broken}, noted, shown)
    return 0


def _ids(args: Proposals, pictures: archives.Album) -> tuple[dict[str, int], str | None]:
    """The id of each picture, and the digest of the json that they are of."""
    if args.ids is None:
        return proposal_album.numbers(pictures), None
    truth = ground_truth.read(args.ids, files_of_pictures=False)
    listed = {each.name: identity for identity, each in truth.pictures.items()}
    texts = [identity for identity in listed.values() if not isinstance(identity, int)]
    if texts:
        raise DataError(f"{truth.file} has the id {texts[0]!r}, but ids must be integers here")
    numbers = {name: int(identity) for name, identity in listed.items()}
    return proposal_album.ids_of(pictures, numbers, str(truth.file)), truth.digest


def _report(
    args: Proposals,
    pictures: archives.Album,
    ids: dict[str, int],
    waiting: list[str],
    part: tuple[int, int],
    report: dict[str, Any],
    noted: list[Finding],
    shown: Progress,
) -> None:
    """Merges what is done, and prints it."""
    for text in Findings(sorted(noted)).in_words():
        shown.say(f"warning: {text}")
    broken = report["broken"]
    if len(broken) == len(ids):
        raise DataError(f"no picture of {args.path} could be read: {next(iter(broken.values()))}")
    files = [proposal_album.file_of(args.out, identity) for identity in ids.values()]
    report |= {"pictures": len(waiting) - len(broken), "out": str(args.out)}
    report["listed"] = proposal_album.merge(files, args.out / proposal_album.RESULTS_FILE)
    report["left_out"] = dict(pictures.left_out)
    if args.overlays:
        proposal_album.sheet(ids, args.out)
    if args.json:
        print(json.dumps(report))
        return
    already = len(list(ids)[part[0] :: part[1]]) - len(waiting)
    found = f"{counted(report['pictures'], 'picture')}, {counted(report['masks'], 'mask')}"
    text = f"{found} in {args.out}; {already} done before"
    text += f"; {len(broken)} could not be read" if broken else ""
    results = proposal_album.RESULTS_FILE
    print(f"{text}; {results} lists {report['listed']} of {counted(len(ids), 'picture')}")
