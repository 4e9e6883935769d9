"""`esam segment IMAGE --model M --point X,Y --box X0,Y0,X1,Y1 --out DIR`: masks for prompts.

All points are one query. A box joins it, and so does a mask; every further box is a query of its
own. For each query the candidate with the highest predicted IoU is written.

`esam segment PICTURES --prompts FILE --model M --out DIR`: those of a file, of many pictures.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from esam_jax import files, outputs
from esam_jax.cli import arguments
from esam_jax.cli.progress import Progress
from esam_jax.convert import load as models
from esam_jax.data import archives, decode
from esam_jax.data.findings import Finding, Findings
from esam_jax.errors import ConfigError, DataError, MissingError, PromptError
from esam_jax.machine import compile_cache
from esam_jax.ops import regions
from esam_jax.predict import draw, load, prompt_file, prompted_album
from esam_jax.predict.everything import album as albums
from esam_jax.predict.masks import Masks
from esam_jax.predict.prompt import Prompt
from esam_jax.words import counted

_OVERLAY, _MASK, _REPORT = "overlay.png", "mask_{:02d}.png", "masks.json"

_SHOWN = 20  # of the malformed entries of a file

_Repeated = tyro.conf.UseAppendAction[tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Segment:
    """Masks of a picture, in pixels of the picture: overlay.png, mask_00.png, ..., masks.json.

    With --prompts, of many pictures: masks/NAME.json for each, and instances.json of all.
    """

    image: tyro.conf.Positional[Path]
    """A JPEG, PNG or WebP picture; with --prompts also a folder of them, or a tar archive."""
    model: str
    """A model folder, run folder, .pt, .pth or .safetensors file, or preset."""
    out: Path
    """Folder for the results; other files in it stay."""
    point: _Repeated = ()
    """X,Y or X,Y,LABEL with 1 for foreground and 0 for background. All points are one query."""
    box: _Repeated = ()
    """X0,Y0,X1,Y1. The first joins the points, each further one is a query of its own."""
    mask: Path | None = None
    """A mask picture (any pixel but black counts) that joins the first query."""
    prompts: Path | None = None
    """Prompts by picture: COCO's instances or results (.json), or a .csv of file,x,y[,label,query]
    or file,x0,y0,x1,y1. The same command resumes where it was stopped."""
    overlays: bool = False
    """With --prompts: draw the masks of each picture done now, and a sheet of the first 60; one
    picture alone always has its overlay."""
    overwrite: bool = False
    """Replace results of the same names; never the picture or the mask. Not with --prompts."""
    crowds: prompt_file.Crowds = "leave_out"
    """With --prompts: what is done with boxes of crowds; they are counted either way."""
    ambiguous_exif: decode.Orientation = "upright"
    """With --prompts: how a picture turned by EXIF is read where the size in the file fits both."""
    sixteen_bit: decode.SixteenBit = "upper_byte"
    """Grey values of 16 bits: their upper byte, or stretched from the lowest to the highest."""
    json: bool = False
    """Print the contents of masks.json, or what was done."""


def main(argv: Sequence[str]) -> int:
    """Writes the masks; picture, prompts, model and folder are checked before weights are read."""
    args = arguments.parse(Segment, argv, prog="esam segment")
    if args.prompts is not None:
        return _of_file(args, args.prompts)
    _require_picture(args.image)
    for name in ("crowds", "ambiguous_exif"):
        if name in (chosen := _choices(args)):
            option = f"--{name.replace('_', '-')} {chosen[name]}"
            raise PromptError(f"{option} is given without --prompts, which it is for: leave it out")
    picture = decode.read_rgb(args.image, args.sixteen_bit)
    height, width = picture.shape[:2]
    prompts = _prompts(args)
    prompts = [prompt.clipped(height, width) for prompt in prompts]
    _require_free(args, len(prompts))
    models.locate(args.model)
    compile_cache.enable()

    sam = load(args.model)
    for prompt in prompts:
        prompt.checked(sam.config, height, width, sam.untrained)
    masks = sam.decode(sam.encode(picture), prompts)
    report = _write(args, picture, prompts, masks)
    print(json.dumps(report) if args.json else f"{counted(len(prompts), 'mask')} in {args.out}")
    return 0


def _require_picture(path: Path) -> None:
    """An error for an album, whose pictures have prompts of their own."""
    if archives.is_album(path):
        raise PromptError(
            f"{path} is {'a folder' if path.is_dir() else 'a tar archive'}, but --point, --box and "
            "--mask are for a single picture: name that one, or give the prompts of each picture "
            "with --prompts FILE"
        )


def _require_free(args: Segment, prompts: int) -> None:
    """An error unless the results may be written."""
    outputs.require_folder(args.out)
    arguments.require_writable(args.out)
    read = [path for path in (args.image, args.mask) if path is not None]
    for name in (_OVERLAY, *(_MASK.format(i) for i in range(prompts)), _REPORT):
        outputs.require_file(args.out / name, overwrite=args.overwrite, inputs=read)


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
    usual = {field.name: field.default for field in dataclasses.fields(Segment)}
    names = ("crowds", "ambiguous_exif", "sixteen_bit")
    return {name: getattr(args, name) for name in names if getattr(args, name) != usual[name]}


def _require_resumable(args: Segment, file: Path) -> None:
    """An error for options of a single picture, and unless the folder may take the results."""
    if args.point or args.box or args.mask is not None:
        raise PromptError("--prompts is given, so leave --point, --box and --mask out")
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
    points = [_floats("--point", text, (2, 3)) for text in args.point]
    boxes = [_floats("--box", text, (4,)) for text in args.box]
    mask = None if args.mask is None else decode.read_mask(args.mask)
    if mask is not None and not mask.any():
        raise PromptError(f"--mask {args.mask} is black everywhere: make the object any other")
    if not (points or boxes or mask is not None):
        raise PromptError("no prompt is given: give --point X,Y, --box X0,Y0,X1,Y1 or --mask FILE")
    first = Prompt(
        points=[point[:2] for point in points],
        labels=[point[2] if len(point) == 3 else 1 for point in points],
        box=boxes[0] if boxes else None,
        mask=mask,
    )
    return [first, *(Prompt(box=box) for box in boxes[1:])]


def _floats(option: str, text: str, counts: tuple[int, ...]) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in counts:
        form = "X,Y or X,Y,LABEL" if option == "--point" else "X0,Y0,X1,Y1"
        raise PromptError(f"{option} is {text!r}, but must be {form} without spaces")
    return numbers


def _write(
    args: Segment, picture: np.ndarray, prompts: list[Prompt], masks: Masks
) -> dict[str, Any]:
    """masks.json comes last: where it is, the rest is complete."""
    indices, chosen = masks.best()
    scores = masks.scores[np.arange(len(indices)), indices]
    captions = [f"{i}  {score:.2f}" for i, score in enumerate(scores)]
    drawn = draw.overlay(picture, chosen, prompts, captions=captions)
    files = {_OVERLAY: draw.png(drawn)}
    entries = []
    for i, (index, mask, prompt) in enumerate(zip(indices, chosen, prompts, strict=True)):
        name = _MASK.format(i)
        files[name] = draw.png(mask.astype(np.uint8) * 255)
        entries.append(
            {
                "file": name,
                "segmentation": regions.to_rle(mask),
                "bbox": regions.mask_box(mask),
                "area": int(mask.sum()),
                "score": float(masks.scores[i, index]),
                "candidate": int(index),
                "candidate_scores": [float(score) for score in masks.scores[i]],
                "prompt": _describe(prompt, args.mask),
            }
        )
    report = {
        "image": str(args.image),
        "size": list(picture.shape[:2]),
        "model": args.model,
        "masks": entries,
    }
    files[_REPORT] = (json.dumps(report, indent=1) + "\n").encode()
    _put(args.out, files)
    return report


def _describe(prompt: Prompt, mask_file: Path | None) -> dict[str, Any]:
    return {
        "points": prompt.points.tolist(),
        "labels": prompt.labels.tolist(),
        "box": None if prompt.box is None else prompt.box.tolist(),
        "mask": None if prompt.mask is None else str(mask_file),
    }


def _put(folder: Path, contents: dict[str, bytes]) -> None:
    """Writes each file atomically."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            files.write(folder / name, content)
    except OSError as error:
        raise MissingError(f"{folder} cannot be written ({error}); name another folder") from error
