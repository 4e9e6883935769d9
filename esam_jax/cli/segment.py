"""`esam segment IMAGE --model M --point X,Y --box X0,Y0,X1,Y1 --out DIR`: masks for prompts.

All points are one query. A box joins it, and so does a mask; every further box is a query of its
own. For each query the candidate with the highest predicted IoU is written.

`esam segment PICTURES --prompts FILE --model M --out DIR`: those of a file, of many pictures.

`--text` and `--select` choose among the masks of everything: see `segment_among.py`.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from esam_jax import outputs
from esam_jax.cli import arguments, segment_among, segment_arguments
from esam_jax.cli.progress import Progress
from esam_jax.cli.segment_arguments import Segment
from esam_jax.convert import load as models
from esam_jax.data import archives, decode
from esam_jax.data.findings import Finding, Findings
from esam_jax.errors import ConfigError, DataError, PromptError
from esam_jax.machine import compile_cache
from esam_jax.predict import load, prompt_file, prompted_album
from esam_jax.predict.everything import album as albums
from esam_jax.predict.masks import Masks
from esam_jax.predict.prompt import Prompt
from esam_jax.words import counted

_SHOWN = 20  # of the malformed entries of a file


def main(argv: Sequence[str]) -> int:
    """Writes the masks; picture, prompts, model and folder are checked before weights are read."""
    args = arguments.parse(Segment, argv, prog="esam segment")
    segment_arguments.require_one_way(args)
    if args.prompts is not None:
        return _of_file(args, args.prompts)
    segment_arguments.require_picture(args)
    if args.text or args.select is not None:
        return segment_among.run(args)
    picture = decode.read_rgb(args.image, args.sixteen_bit)
    height, width = picture.shape[:2]
    prompts = _prompts(args)
    prompts = [prompt.clipped(height, width) for prompt in prompts]
    segment_arguments.require_free(args, len(prompts))
    models.locate(args.model)
    compile_cache.enable()

    sam = load(args.model)
    for prompt in prompts:
        prompt.checked(sam.config, height, width, sam.untrained)
    masks = sam.decode(sam.encode(picture), prompts)
    report = _write(args, picture, prompts, masks)
    print(json.dumps(report) if args.json else f"{counted(len(prompts), 'mask')} in {args.out}")
    return 0


def _of_file(args: Segment, file: Path) -> int:
    """The prompts of a file; pictures, prompts, model and folder are checked first."""
    _require_resumable(args, file)
    album, prompts = archives.open_album(args.image), prompt_file.read(file, args.crowds)
    matched = prompts.of(album.names)
    arguments.require_writable(args.out)
    models.locate(args.model)
    settings = _choices(args)
    settings |= {"prompts": f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()[:32]}"}
    place = (prompted_album.SETTINGS_FILE, prompted_album.RESULTS)
    albums.require_same(args.out, settings, *place)
    compile_cache.enable()
    sam = load(args.model)
    # Also where all pictures are done: masks of other weights would pass for these.
    albums.settle(args.out, {**settings, "model": albums.digest(sam)}, *place)
    names = prompted_album.waiting(matched.asked, args.out)
    single = args.image.is_file() and len(album.names) == 1
    shown = Progress(len(names), "mask")
    report: dict[str, Any] = _left_out(prompts, matched, shown)
    noted: list[Finding] = []
    if names:
        found = prompted_album.run(
            sam,
            album,
            matched,
            names,
            args.out,
            sixteen_bit=args.sixteen_bit,
            ambiguous_exif=args.ambiguous_exif,
            with_overlays=args.overlays or single,
            noted=noted,
        )
        for done in shown.over(found):
            if done.broken is not None:
                report["broken"][done.name] = done.broken
                shown.say(f"warning: {done.name}: {done.broken}")
                continue
            report["pictures"] += 1
            report["refused"] += done.refused
            shown.found = report["masks"] = report["masks"] + done.masks
    for text in Findings(sorted(noted)).in_words():
        shown.say(f"warning: {text}")
    report |= {str(kind): n for kind, n in Findings((*prompts.noted, *noted)).counts().items()}
    report["listed"] = prompted_album.merge(matched.asked, prompts, args.out)
    if args.overlays:
        prompted_album.sheet(matched.asked, args.out)
    report |= {"with_prompts": len(matched.asked), "out": str(args.out)}
    report["left_out"] = dict(album.left_out)
    report["without_prompts"] = len(album.names) - len(matched.asked)
    print(json.dumps(report) if args.json else _text(report))
    if len(report["broken"]) == len(matched.asked):
        raise DataError(f"no picture of {args.image} could be used: see above")
    return 0


def _choices(args: Segment) -> dict[str, str]:
    """How the data is read, by the names of the options, where it is not the usual way."""
    return segment_arguments.chosen(args, ("crowds", "ambiguous_exif", "sixteen_bit"))


def _require_resumable(args: Segment, file: Path) -> None:
    """An error for what a single picture alone has, and unless the folder may take the results."""
    if args.overwrite:
        raise ConfigError(
            "--overwrite is given with --prompts, whose results are resumed and never replaced: "
            "leave it out, and name a new folder with --out to start again"
        )
    outputs.require_folder(args.out, inputs=(args.image, file))


def _left_out(
    prompts: prompt_file.PromptFile, matched: prompt_file.Matched, shown: Progress
) -> dict[str, Any]:
    """The report before any picture is read; entries that are left out are on stderr, too."""
    for text in Findings(prompts.noted).in_words():
        shown.say(f"warning: {text}")
    for text in prompts.malformed[:_SHOWN]:
        shown.say(f"warning: left out of the prompts: {text}")
    if len(prompts.malformed) > _SHOWN:
        shown.say(f"warning: left out of the prompts in all: {len(prompts.malformed)} entries")
    count = sum(each for each, _ in matched.unmatched.values())
    unmatched: dict[str, Any] = {"prompts": count, "first": None, "reason": None}
    if count:
        first, (_, reason) = next(iter(matched.unmatched.items()))
        unmatched |= {"first": first, "reason": reason}
        without = counted(count, "prompt")
        shown.say(
            f"warning: {without} without a matching picture, the first of {first!r}: {reason}"
        )
    report: dict[str, Any] = {"pictures": 0, "masks": 0, "refused": len(prompts.malformed)}
    malformed = {"entries": len(prompts.malformed), "reasons": list(prompts.malformed[:_SHOWN])}
    return {**report, "broken": {}, "malformed": malformed, "unmatched": unmatched}


def _text(report: dict[str, Any]) -> str:
    text = f"{counted(report['pictures'], 'picture')}, {counted(report['masks'], 'mask')} in "
    text += f"{report['out']}; {prompted_album.COCO_FILE} lists {report['listed']} of "
    text += f"{counted(report['with_prompts'], 'picture')} with prompts"
    malformed, unmatched = report["malformed"]["entries"], report["unmatched"]["prompts"]
    if report["refused"] > malformed:
        text += f"; {counted(report['refused'] - malformed, 'prompt')} refused: each json says why"
    left_out = counted(malformed, "malformed entry", "malformed entries")
    text += f"; {left_out} left out" if malformed else ""
    text += f"; {counted(unmatched, 'prompt')} without a matching picture" if unmatched else ""
    text += f"; {len(report['broken'])} could not be used" if report["broken"] else ""
    return text


def _prompts(args: Segment) -> list[Prompt]:
    points, boxes = segment_arguments.points_and_boxes(args)
    mask = None if args.mask is None else decode.read_mask(args.mask)
    if mask is not None and not mask.any():
        raise PromptError(f"--mask {args.mask} is black everywhere: make the object any other")
    if not (points or boxes or mask is not None):
        raise PromptError(
            "no prompt is given: give --point X,Y, --box X0,Y0,X1,Y1, --mask FILE or --text TEXT"
        )
    first = Prompt(
        points=[point[:2] for point in points],
        labels=segment_arguments.labels(points),
        box=boxes[0] if boxes else None,
        mask=mask,
    )
    return [first, *(Prompt(box=box) for box in boxes[1:])]


def _write(
    args: Segment, picture: np.ndarray, prompts: list[Prompt], masks: Masks
) -> dict[str, Any]:
    indices, best = masks.best()
    scores = masks.scores[np.arange(len(indices)), indices]
    about = [
        {
            "score": float(masks.scores[i, index]),
            "candidate": int(index),
            "candidate_scores": [float(score) for score in masks.scores[i]],
            "prompt": _describe(prompt, args.mask),
        }
        for i, (index, prompt) in enumerate(zip(indices, prompts, strict=True))
    ]
    captions = [f"{i}  {score:.2f}" for i, score in enumerate(scores)]
    return segment_arguments.write(args, picture, list(best), about, captions, prompts)


def _describe(prompt: Prompt, mask_file: Path | None) -> dict[str, Any]:
    return {
        "points": prompt.points.tolist(),
        "labels": prompt.labels.tolist(),
        "box": None if prompt.box is None else prompt.box.tolist(),
        "mask": None if prompt.mask is None else str(mask_file),
    }
