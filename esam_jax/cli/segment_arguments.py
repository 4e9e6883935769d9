"""The options of `esam segment`, and what all of its ways to masks of one picture share."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from jaxtyping import Bool, UInt8

from esam_jax import files, outputs
from esam_jax.cli import arguments
from esam_jax.data import archives, decode
from esam_jax.errors import MissingError, PromptError
from esam_jax.ops import regions
from esam_jax.predict import draw, prompt_file
from esam_jax.predict.prompt import Prompt
from esam_jax.predict.zero_shot import crops, guided_selection
from esam_jax.predict.zero_shot.text import MIN_AREA_PX

_OVERLAY, _MASK, _REPORT = "overlay.png", "mask_{:02d}.png", "masks.json"

_Repeated = tyro.conf.UseAppendAction[tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Segment:
    """Masks of a picture, in pixels of the picture: overlay.png, mask_00.png, ..., masks.json.

    For points, a box and a mask; with --text, the masks of everything that fit a text best; with
    --select, those of everything that points or boxes choose. With --prompts, of many pictures:
    masks/NAME.json for each, and instances.json of all.
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
    text: _Repeated = ()
    """What to look for among the masks of everything, such as "a photo of a dog"; repeat it for
    more. In place of points, boxes and masks."""
    clip: str | None = None
    """With --text: the CLIP that compares, a file, a folder, ViT-B/32 or another name."""
    text_mode: Literal["rank", "prompt"] = "rank"
    """With --text: rank the masks of everything; or ask a model that was trained with texts as
    prompts, one query each."""
    crop_style: crops.Style = "white_frame"
    """With --text: what CLIP sees of a mask: the picture, white outside the mask's box; the box
    enlarged to a square; or the mask cut out in that square."""
    enlarge: float | None = None
    """With --text: how much the square is larger than the box, from 1 to 2 times: 1.5."""
    background: crops.Background | None = None
    """With --text: the colour around a mask that is cut out: CLIP's mean."""
    template: _Repeated = ()
    """With --text: what stands around each text, such as "a photo of a {}."; repeat it for an
    average of several. The text alone otherwise."""
    top: int = 1
    """With --text: how many masks are written for each text."""
    min_area: int = MIN_AREA_PX
    """With --text: leave masks of so many pixels or fewer out."""
    select: guided_selection.Rules | None = None
    """Choose among the masks of everything by points or by boxes, as FastSAM does, and ask the
    model for no others: by the rules of its paper, or of its code."""
    points_per_side: int = 32
    """With --text or --select: clicks along each side of the grid of everything."""
    pred_iou_thresh: float | None = None
    """With --text or --select: as for esam everything."""
    stability_score_thresh: float | None = None
    """With --text or --select: as for esam everything."""
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


_OF_RANKING = ("crop_style", "enlarge", "background", "top", "min_area")
_OF_TEXT = ("clip", "text_mode", "template", *_OF_RANKING)
_OF_EVERYTHING = ("points_per_side", "pred_iou_thresh", "stability_score_thresh")
_OWNERS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("crowds", "ambiguous_exif"), ("prompts",)),
    **dict.fromkeys(_OF_TEXT, ("text",)),
    **dict.fromkeys(_OF_EVERYTHING, ("text", "select")),
}
_PROMPTS = ("point", "box", "mask")


def chosen(args: Segment, names: Sequence[str]) -> dict[str, Any]:
    """The values of these options where they are not the usual ones, by name."""
    usual = {field.name: field.default for field in dataclasses.fields(Segment)}
    return {name: getattr(args, name) for name in names if getattr(args, name) != usual[name]}


def require_one_way(args: Segment) -> None:
    """PromptError for ways to masks that exclude each other, and for options of another way."""
    ways = ("prompts", "text", "select")
    given = [*chosen(args, ways)]
    if len(given) > 1:
        raise PromptError(
            f"--{given[0]} is given with --{given[1]}, but each is a way of its own: leave one out"
        )
    allowed = {"select": ("point", "box")}.get(given[0], ()) if given else _PROMPTS
    if refused := [name for name in chosen(args, _PROMPTS) if name not in allowed]:
        names = " and ".join(f"--{name}" for name in refused)
        raise PromptError(f"--{given[0]} is given, so leave {names} out")
    for name, value in chosen(args, [*_OWNERS]).items():
        if not any(owner in given for owner in _OWNERS[name]):
            owners = " or ".join(f"--{owner}" for owner in _OWNERS[name])
            said = " ".join(value) if isinstance(value, tuple) else value
            raise PromptError(
                f"--{name.replace('_', '-')} {said} is given without {owners}, which it is for: "
                "leave it out"
            )

    if args.text_mode == "prompt":
        for name, value in chosen(args, (*_OF_RANKING, *_OF_EVERYTHING)).items():
            raise PromptError(
                f"--{name.replace('_', '-')} {value} is given with --text-mode prompt, which ranks "
                "no masks of everything: leave it out"
            )


def require_picture(args: Segment) -> None:
    """PromptError for an album, whose pictures have prompts of their own."""
    if archives.is_album(args.image):
        options = "--text is" if args.text else "--point, --box and --mask are"
        raise PromptError(
            f"{args.image} is {'a folder' if args.image.is_dir() else 'a tar archive'}, but "
            f"{options} for a single picture: name that one, or give the prompts of each picture "
            "with --prompts FILE"
        )


def require_free(args: Segment, masks: int) -> None:
    """An error unless the results may be written."""
    outputs.require_folder(args.out)
    arguments.require_writable(args.out)
    read = [path for path in (args.image, args.mask) if path is not None]
    for name in (_OVERLAY, *(_MASK.format(i) for i in range(masks)), _REPORT):
        outputs.require_file(args.out / name, overwrite=args.overwrite, inputs=read)


@contextlib.contextmanager
def by_options() -> Iterator[None]:
    """PromptErrors of arguments are raised under the names of the options."""
    try:
        yield
    except PromptError as error:
        if error.argument is None:
            raise
        name = error.argument.partition("[")[0]
        option = {"texts": "text", "templates": "template", "points": "point", "boxes": "box"}
        named = f"--{option.get(name, name).replace('_', '-')}"
        raise PromptError.of(named, error.problem or "") from error


def points_and_boxes(args: Segment) -> tuple[list[list[float]], list[list[float]]]:
    """The numbers of each --point and of each --box."""
    points = [_floats("--point", text, (2, 3)) for text in args.point]
    return points, [_floats("--box", text, (4,)) for text in args.box]


def labels(points: Sequence[Sequence[float]]) -> list[float]:
    """Those given, and foreground otherwise."""
    return [point[2] if len(point) == 3 else 1.0 for point in points]


def _floats(option: str, text: str, counts: tuple[int, ...]) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in counts:
        form = "X,Y or X,Y,LABEL" if option == "--point" else "X0,Y0,X1,Y1"
        raise PromptError(f"{option} is {text!r}, but must be {form} without spaces")
    return numbers


def write(
    args: Segment,
    picture: UInt8[np.ndarray, "H W 3"],
    masks: Sequence[Bool[np.ndarray, "H W"]],
    about: Sequence[Mapping[str, Any]],
    captions: Sequence[str],
    prompts: Sequence[Prompt] = (),
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What masks.json says, which comes last: where it is, the rest is complete."""
    array = np.stack(masks) if masks else None
    contents = {_OVERLAY: draw.png(draw.overlay(picture, array, prompts, captions=captions))}
    entries = []
    for i, (mask, each) in enumerate(zip(masks, about, strict=True)):
        contents[name := _MASK.format(i)] = draw.png(mask.astype(np.uint8) * 255)
        entries.append(
            {
                "file": name,
                "segmentation": regions.to_rle(mask),
                "bbox": regions.mask_box(mask),
                "area": int(mask.sum()),
                **each,
            }
        )
    report = {
        "image": str(args.image),
        "size": list(picture.shape[:2]),
        "model": args.model,
        **(more or {}),
        "masks": entries,
    }
    contents[_REPORT] = (json.dumps(report, indent=1) + "\n").encode()
    _put(args.out, contents)
    return report


def _put(folder: Path, contents: dict[str, bytes]) -> None:
    """Writes each file atomically."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            files.write(folder / name, content)
    except OSError as error:
        raise MissingError(f"{folder} cannot be written ({error}); name another folder") from error
