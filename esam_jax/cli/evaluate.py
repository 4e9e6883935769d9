"""`esam evaluate TASK --model M --data D`: a measurement, with its protocol."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Literal

import tyro

from esam_jax.cli import arguments
from esam_jax.config import SourceConfig
from esam_jax.convert import load as models
from esam_jax.data import findings, sources
from esam_jax.data.findings import KINDS
from esam_jax.errors import ConfigError
from esam_jax.evaluate import prompts
from esam_jax.machine import compile_cache
from esam_jax.predict import load
from esam_jax.words import counted


@dataclasses.dataclass(frozen=True)
class Prompts:
    """One box, and one click, against the labelled masks of pictures."""

    task: tyro.conf.Positional[Literal["prompts"]]
    """What to measure."""
    model: str
    """A model folder, run folder, RUN@STEP, .pt, .pth or .safetensors file, or preset."""
    data: str
    """The word scenes, a COCO json or its picture folder, or a folder of sa_*.json."""
    images: int = 100
    """How many pictures, drawn with the seed; all of them when there are fewer."""
    masks_per_image: int = 32
    """How many masks of each picture at most, drawn with the seed."""
    click: prompts.Click = "uniform"
    """Where in the mask the point lies: anywhere, or as deep inside as possible."""
    crowds: Literal["leave_out", "use"] = "leave_out"
    """What is done with objects marked as crowds; they are counted either way."""
    ambiguous_exif: Literal["upright", "stored"] = "upright"
    """How a picture turned by EXIF is read where the annotations' size fits both readings."""
    sixteen_bit: Literal["upper_byte", "stretch"] = "upper_byte"
    """Grey values of 16 bits: their upper byte, or stretched from the lowest to the highest."""
    seed: int = 0
    json: bool = False
    """Print the result as JSON."""


def main(argv: Sequence[str]) -> int:
    """Prints the numbers; a missing model or data set is reported before weights are read."""
    args = arguments.parse(Prompts, argv, prog="esam evaluate")
    for name in ("images", "masks_per_image"):
        if getattr(args, name) < 1:
            key = name.replace("_", "-")
            raise ConfigError(f"--{key} is {getattr(args, name)}, but at least 1 is needed")
    models.locate(args.model)
    source = sources.open_source(_source(args), options="")
    compile_cache.enable()
    result = prompts.evaluate(
        load(args.model),
        source,
        images=args.images,
        masks_per_image=args.masks_per_image,
        seed=args.seed,
        click=args.click,
    )
    print(json.dumps(result) if args.json else _for_people(result))
    return 0


def _source(args: Prompts) -> SourceConfig:
    """The data, read as the arguments say; ConfigError for one that such data does not know."""
    found = sources.detect(args.data)
    fields = {field.name: field.default for field in dataclasses.fields(Prompts)}
    chosen = {
        name: getattr(args, name)
        for name in ("crowds", "ambiguous_exif", "sixteen_bit")
        if getattr(args, name) != fields[name]
    }
    for name, value in chosen.items():
        if not hasattr(found, name):
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} is {value!r}, but {found.kind} has no such choice")
    return dataclasses.replace(found, **chosen)


def _for_people(result: dict) -> str:
    broken = result["skipped"]
    counts = [f"{counted(broken, 'broken picture')} left out"] if broken else []
    counts += [findings.in_words(kind, result[kind]) for kind in KINDS if result.get(kind)]
    noted = ", ".join(counts)
    return (
        f"box mIoU    {result['box_miou']:.4f}\n"
        f"point mIoU  {result['point_miou']:.4f}\n"
        f"filled box  {result['fill_box']:.4f}\n"
        f"{counted(result['masks'], 'mask')} in {counted(result['images'], 'picture')}"
        f"{f' ({noted})' if noted else ''}. {result['protocol']}"
    )
