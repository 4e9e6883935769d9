"""`esam evaluate text`: how well names of categories find their objects among masks of everything.

The ranking is that of `esam segment --text`, and its options have the same names.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro

from esam_jax import outputs
from esam_jax.cli import arguments, score_tables, segment_arguments
from esam_jax.convert import load as models
from esam_jax.data import decode
from esam_jax.errors import ConfigError
from esam_jax.evaluate import ground_truth, text_protocol, text_scores, text_to_mask, truth_pictures
from esam_jax.evaluate.text_protocol import TextSettings
from esam_jax.machine import compile_cache
from esam_jax.predict import load, load_clip
from esam_jax.predict.zero_shot import crops
from esam_jax.predict.zero_shot.text import MIN_AREA_PX, PLAIN
from esam_jax.words import counted

_MOST_SHOWN = 20  # categories of a table


@dataclasses.dataclass(frozen=True)
class Arguments:
    """mIoU of the mask of everything that ranks first for the name of a category in a picture.

    Beside it the IoU that a perfect ranking of the same masks would reach, and a random one. With
    --out: masks.json, a results file of COCO; the same command resumes where it was stopped.
    """

    data: Path
    """A COCO or LVIS json, or its picture folder; the names of its categories are the texts."""
    model: str
    """A model folder, run folder, RUN@STEP, .pt, .pth or .safetensors file, or preset."""
    clip: str
    """The CLIP that compares: a file, a folder, ViT-B/32 or another name."""
    crop_style: crops.Style = "white_frame"
    """What CLIP sees of a mask: the picture, white outside the mask's box; the box enlarged to a
    square; or the mask cut out in that square."""
    enlarge: float | None = None
    """How much the square is larger than the box, from 1 to 2 times: 1.5."""
    background: crops.Background | None = None
    """The colour around a mask that is cut out: CLIP's mean."""
    template: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """What stands around each name, such as "a photo of a {}."; repeat it for an average of
    several. The name alone otherwise."""
    min_area: int = MIN_AREA_PX
    """Leave masks of so many pixels or fewer out."""
    points_per_side: int = 32
    """Clicks along each side of the grid of everything."""
    pred_iou_thresh: float | None = None
    """As for esam everything."""
    stability_score_thresh: float | None = None
    """As for esam everything."""
    images: int | None = None
    """So many of the pictures that have an object, drawn with seed 0; all without it."""
    sixteen_bit: decode.SixteenBit = "upper_byte"
    """Grey values of 16 bits: their upper byte, or stretched from the lowest to the highest."""
    out: Path | None = None
    """Folder for result.json, masks.json, pairs.csv, best.png and worst.png; resumes what is in
    it."""
    json: bool = False
    """Print the result as JSON."""


def main(argv: Sequence[str]) -> int:
    """Prints the numbers; options, data and their names are checked before weights are read."""
    args = arguments.parse(Arguments, argv, prog="esam evaluate text")
    if args.images is not None and args.images < 1:
        raise ConfigError(f"--images is {args.images}, but at least 1 is needed")
    given = [field.name for field in dataclasses.fields(TextSettings) if field.name != "templates"]
    settings = TextSettings(
        templates=args.template or PLAIN, **{name: getattr(args, name) for name in given}
    )
    with segment_arguments.by_options():
        settings.require()
    if args.out is not None:
        outputs.require_folder(args.out, inputs=(args.data,))
        arguments.require_writable(args.out)
    models.locate(args.model)
    truth = ground_truth.read(args.data)
    chosen = truth_pictures.with_objects(truth, args.images)
    text_protocol.texts_of(truth, chosen, settings)
    compile_cache.enable()
    clip, sam = load_clip(args.clip), load(args.model)
    with segment_arguments.by_options():
        result = text_to_mask.evaluate(
            sam,
            clip,
            truth,
            settings,
            out=args.out,
            model=args.model,
            clip_model=args.clip,
            images=args.images,
            sixteen_bit=args.sixteen_bit,
        )
    print(json.dumps(result) if args.json else for_people(result))
    return 0


def for_people(result: Mapping[str, Any]) -> str:
    """Two tables, of means and of the categories with the most pairs, and what they are of."""
    means = {
        "mean over pairs": {name: result[name] for name in text_scores.NUMBERS},
        "mean over categories": result["by_category"],
    }
    lines = [*score_tables.of_numbers(means), ""]
    shown = result["per_category"][:_MOST_SHOWN]
    rows = {
        f"{each['id']} {each['text']} ({each['pairs']})": {
            name: each[name] for name in text_scores.NUMBERS
        }
        for each in shown
    }
    lines += score_tables.of_numbers(rows)
    if more := result["categories"] - len(shown):
        lines.append(f"and {counted(more, 'more category', 'more categories')} of fewer pairs")
    lines += ["", *(f"no published numbers: {each}" for each in result["published"]["left_out"])]
    pairs, images = counted(result["pairs"], "pair"), counted(result["images"], "picture")
    masks = counted(result["masks"], "mask")
    none = f", {result['nothing']} without a mask" if result["nothing"] else ""
    noted = score_tables.noted(result)
    lines.append(f"{pairs} and {masks} of {images}{none}{noted}. {result['protocol']}")
    first, model, *rest = score_tables.sources(result)
    return "\n".join([*lines, first, model, f"clip {result['clip']}: {result['clip_hash']}", *rest])
