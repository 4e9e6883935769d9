"""`esam segment IMAGE --text T --clip C` and `--select RULES`: masks of everything, chosen among.

`--text` ranks them with CLIP and writes the best for each text; with `--text-mode prompt` it is a
prompt itself, for models that were trained so. `--select` takes those that points
or boxes choose, as FastSAM does, whatever the model. The masks are those of `esam everything`.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from esam_jax.cli import segment_arguments
from esam_jax.cli.segment_arguments import Segment
from esam_jax.convert import load as models
from esam_jax.data import decode
from esam_jax.errors import PromptError
from esam_jax.machine import compile_cache
from esam_jax.predict import load, load_clip
from esam_jax.predict.clip import Clip
from esam_jax.predict.everything import arguments as rules
from esam_jax.predict.everything.generator import AutomaticMaskGenerator, Record
from esam_jax.predict.prompt import Prompt
from esam_jax.predict.zero_shot import crops, given_masks, guided_selection, text
from esam_jax.words import counted

_MOST_WRITTEN = 1000.0  # masks of a text: a file each
_EVERYTHING = ("points_per_side", "pred_iou_thresh", "stability_score_thresh")


def run(args: Segment) -> int:
    """Writes the masks; all arguments are checked before weights are read."""
    if args.text:
        report = _by_prompt(args) if args.text_mode == "prompt" else _by_text(args)
    else:
        report = _by_selection(args)
    found = counted(len(report["masks"]), "mask")
    print(json.dumps(report) if args.json else f"{found} in {args.out}")
    return 0


def _by_text(args: Segment) -> dict[str, Any]:
    with segment_arguments.by_options():
        rules.require_between(1.0, _MOST_WRITTEN, {"top": args.top})
        rules.require_whole(0, {"min_area": args.min_area})
        crops.require(args.crop_style, args.enlarge, args.background)
    picture, texts, templates, clip = _asked(args)
    records, why = _everything(args, picture)
    found = text.ranked(
        picture,
        records,
        texts,
        clip=clip,
        crop_style=args.crop_style,
        enlarge=args.enlarge,
        background=args.background,
        templates=templates,
        min_area=args.min_area,
    )
    if records and not len(found.scored):
        areas = [record["area"] for record in records]
        why = f"none of {counted(len(records), 'mask')} has more than {args.min_area} pixels: "
        why += f"try --min-area {max(*areas, 1) - 1}"
    about, masks = [], []
    for number, words in enumerate(texts):
        masks += found.best(number, args.top)
        for rank, column in enumerate(found.order(number)[: args.top].tolist()):
            place = int(found.scored[column])
            about.append(
                {
                    "text": words,
                    "rank": rank,
                    "similarity": float(found.similarities[number, column]),
                    "probability": float(found.probabilities[number, column]),
                    **_of_record(place, records[place]),
                }
            )
    captions = [f"{each['text']}  {each['similarity']:.2f}" for each in about]
    more = {
        "clip": args.clip,
        "crop_style": args.crop_style,
        "templates": templates,
        "scale": found.scale,
        "everything": len(records),
        "scored": len(found.scored),
    }
    return _written(args, picture, masks, about, captions, more=more, why=why)


def _asked(args: Segment) -> tuple[UInt8[np.ndarray, "H W 3"], list[str], list[str], Clip]:
    """The picture, the texts, their templates and the CLIP, once all is checked but the model."""
    with segment_arguments.by_options():
        texts, templates = text.checked_texts(args.text, args.template or text.PLAIN)
    if args.clip is None:
        raise PromptError(
            "--text is given without --clip, the model that compares texts with pictures: name "
            "one, such as ViT-B/32 or a file of its weights"
        )
    picture = decode.read_rgb(args.image, args.sixteen_bit)
    segment_arguments.require_free(args, len(texts) * args.top)
    models.locate(args.model)
    compile_cache.enable()
    return picture, texts, templates, load_clip(args.clip)


def _by_prompt(args: Segment) -> dict[str, Any]:
    picture, texts, templates, clip = _asked(args)
    with segment_arguments.by_options():
        found = load(args.model).text_prompt(picture, texts, clip=clip, templates=templates)
    indices, masks = found.best()
    about = [
        {"text": words, "score": float(found.scores[i, index]), "candidate": int(index)}
        for i, (words, index) in enumerate(zip(texts, indices, strict=True))
    ]
    captions = [f"{each['text']}  {each['score']:.2f}" for each in about]
    more = {"clip": args.clip, "templates": templates}
    return _written(args, picture, list(masks), about, captions, more=more)


def _by_selection(args: Segment) -> dict[str, Any]:
    points, boxes = segment_arguments.points_and_boxes(args)
    if bool(points) == bool(boxes):
        raise PromptError(
            f"--select is given with {'points and boxes' if points else 'neither'}, but masks are "
            "chosen by one of them: give --point X,Y or --box X0,Y0,X1,Y1"
        )
    picture = decode.read_rgb(args.image, args.sixteen_bit)
    size = picture.shape[:2]
    xy, labels = [point[:2] for point in points], segment_arguments.labels(points)
    options: Mapping[str, Any] = {"rules": args.select, "size": size}
    with segment_arguments.by_options():  # of no masks: what is wrong is known before any are found
        if points:
            guided_selection.by_points([], xy, labels, **options)
        else:
            guided_selection.by_boxes([], boxes, **options)
    prompts = [Prompt(points=xy, labels=labels)] if points else [Prompt(box=box) for box in boxes]
    segment_arguments.require_free(args, len(prompts))
    models.locate(args.model)
    compile_cache.enable()
    records, why = _everything(args, picture)
    if points:
        mask = guided_selection.by_points(records, xy, labels, **options)
        if records and not mask.any():
            why = f"no point chooses any of {counted(len(records), 'mask')}: try other points, or "
            why += "without --select"
        masks, about = [mask], [{"points": xy, "labels": labels}]
    else:
        places = guided_selection.by_boxes(records, boxes, **options)
        masks, about, drawn = [], [], []
        for box, place, prompt in zip(boxes, places, prompts, strict=True):
            if place is None:
                why = why or f"no mask overlaps --box {box}: try without --select"
                continue
            masks.append(given_masks.of(records[place], f"masks[{place}]"))
            about.append({"box": box, **_of_record(place, records[place])})
            drawn.append(prompt)
        prompts = drawn
    captions = [str(i) for i in range(len(masks))]
    more = {"select": args.select, "everything": len(records)}
    return _written(args, picture, masks, about, captions, prompts, more, why)


def _everything(
    args: Segment, picture: UInt8[np.ndarray, "H W 3"]
) -> tuple[list[Record], str | None]:
    """The masks of everything in the picture, and why there is none and what to try."""
    settings = {name: getattr(args, name) for name in _EVERYTHING}
    with segment_arguments.by_options():
        generator = AutomaticMaskGenerator(load(args.model), output_mode="coco_rle", **settings)
    records, tally = generator.generate(picture), generator.tally
    if records:
        return records, None
    return [], f"no mask was found: {tally.why(generator)}; {tally.remedy(generator)}"


def _written(
    args: Segment,
    picture: UInt8[np.ndarray, "H W 3"],
    masks: list[Bool[np.ndarray, "H W"]],
    about: Sequence[Mapping[str, Any]],
    captions: Sequence[str],
    prompts: Sequence[Prompt] = (),
    more: Mapping[str, Any] | None = None,
    why: str | None = None,
) -> dict[str, Any]:
    """The report, with what to try where something was not found, which stderr has too."""
    if why is not None:
        print(f"esam: warning: {why}", file=sys.stderr)
    more = {**(more or {}), "hint": why}
    return segment_arguments.write(args, picture, masks, about, captions, prompts, more)


def _of_record(place: int, record: Record) -> dict[str, Any]:
    names = ("predicted_iou", "stability_score")
    return {"mask_of_everything": place, **{name: float(record[name]) for name in names}}
