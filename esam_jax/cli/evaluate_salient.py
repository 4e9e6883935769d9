"""`esam evaluate salient`: saliency maps, and the masks for clicks in them, beside the truth."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from esam_jax import outputs
from esam_jax.cli import arguments, salient
from esam_jax.convert import load as models
from esam_jax.data import archives, decode, sources
from esam_jax.errors import ConfigError
from esam_jax.evaluate import prompts, salient_objects, salient_truth
from esam_jax.evaluate.salient_truth import Cases, Objects
from esam_jax.machine import compile_cache
from esam_jax.predict import load
from esam_jax.predict.zero_shot import finder, map_files
from esam_jax.predict.zero_shot.finder import Finder
from esam_jax.predict.zero_shot.salient import Rules
from esam_jax.words import counted

_NEEDS = frozenset({"masks"})


@dataclasses.dataclass(frozen=True)
class Arguments:
    """MAE, F-beta and S-measure of saliency maps, and the mIoU of a model's masks for them.

    The truth is that of annotated data (--data), or of mask pictures (--truth) for a folder of
    pictures (--data) or for maps alone (--maps). Without a model, maps alone are scored: those of
    --maps, of a saliency network, or of the centre prior.
    """

    data: str | None = None
    """The word scenes, or what `esam evaluate prompts` takes as --data; with --truth, a folder or a
    tar archive of pictures."""
    truth: Path | None = None
    """A folder of mask pictures, white for what is salient, by the names of the pictures."""
    maps: Path | None = None
    """Anybody's maps: a folder of grey pictures of the size and name of each picture."""
    model: str | None = None
    """A promptable model: its masks are scored, too."""
    saliency: str = "contrast"
    """Without --maps: a file of U-2-Net, the contrast of the model's masks, or centre."""
    objects: Objects = "all"
    """Of annotated data: all objects of a picture together, or the largest."""
    images: int | None = 100
    """How many pictures, drawn with the seed; None for all."""
    points: int = 3
    """Clicks in each map, drawn uniformly."""
    threshold: float = 0.5
    """From here on, of 0 to 1, a value of the map is inside."""
    instances: bool = False
    """A mask for each part of the map that touches no other, instead of one for all."""
    min_region: float = 0.005
    """With --instances: smaller parts are left out, as a share of the picture."""
    seed: int = 0
    """Of the pictures and the clicks."""
    split: str | None = None
    """Of data that comes in splits, the one to read: val of BSDS500, 2017/val of DAVIS."""
    sixteen_bit: decode.SixteenBit = "upper_byte"
    """Grey values of 16 bits: their upper byte, or stretched from the lowest to the highest."""
    out: Path | None = None
    """Folder for result.json, pictures.csv and worst.png; the same command resumes there."""
    json: bool = False
    """Print the result as JSON."""


def main(argv: Sequence[str]) -> int:
    """Prints the numbers; data, maps and model are looked for before weights are read."""
    args = arguments.parse(Arguments, argv, prog="esam evaluate salient")
    rules = salient.rules_of(args)
    _require_some(args)
    if args.out is not None:
        read = [Path(each) for each in (args.data, args.truth, args.maps) if each is not None]
        outputs.require_folder(args.out, inputs=[each for each in read if each.exists()])
        arguments.require_writable(args.out)
    salient.require_saliency(args.saliency, args.maps is not None)
    if args.model is not None:
        models.locate(args.model)
    cases = _cases(args)
    places = prompts.drawn(len(cases.names), args.images, args.seed)
    found = _finder(args, cases, places, rules)
    result = salient_objects.evaluate(
        found, cases, out=args.out, model=args.model or "", places=places
    )
    print(json.dumps(result) if args.json else _for_people(result))
    return 0


def _require_some(args: Arguments) -> None:
    """ConfigError unless there are a truth, and maps or what makes them."""
    if args.data is None and args.truth is None:
        raise ConfigError(
            "nothing says what is salient: name annotated data with --data, or a folder of mask "
            "pictures with --truth"
        )
    if args.data is None and (args.maps is None or args.model is not None):
        raise ConfigError(
            "--truth is given without pictures, for which maps and masks are made: name a folder "
            "of them with --data, or maps with --maps and no --model"
        )
    if args.images is not None and args.images < 1:
        raise ConfigError(f"--images is {args.images}, but must be at least 1, or None for all")
    if args.truth is not None:
        for name, default in (("split", None), ("objects", "all")):
            if getattr(args, name) != default:
                raise ConfigError(
                    f"--{name} is {getattr(args, name)!r}, but is for annotated data, not for "
                    "--truth: leave it out"
                )
    if args.maps is None and args.model is None and args.saliency == "contrast":
        raise ConfigError(
            "no maps are named: give a folder with --maps, a model with --model, or a file of "
            "U-2-Net with --saliency"
        )


def _cases(args: Arguments) -> Cases:
    """What is measured; ConfigError for an option that the data does not know."""
    if args.truth is not None:
        pictures = None if args.data is None else archives.open_album(Path(args.data))
        return salient_truth.of_masks(args.truth, pictures, args.sixteen_bit)
    config = sources.detect(str(args.data))
    chosen = {"split": args.split} if args.split is not None else {}
    chosen |= {"sixteen_bit": args.sixteen_bit} if args.sixteen_bit != "upper_byte" else {}
    for key, value in chosen.items():
        if not hasattr(config, key):
            option = f"--{key.replace('_', '-')}"
            raise ConfigError(f"{option} is {value!r}, but {config.kind} has no such choice")
    config = dataclasses.replace(config, **chosen)
    return salient_truth.of_source(sources.open_source(config, "", _NEEDS), args.objects)


def _finder(args: Arguments, cases: Cases, places: Sequence[int], rules: Rules) -> Finder:
    """Maps of files, each of which is there, or what makes them; and the model."""
    names = [cases.names[place] for place in places]
    given = {} if args.maps is None else map_files.of(args.maps, names)
    compile_cache.enable()
    sam = None if args.model is None else load(args.model)
    if sam is not None:
        with salient.by_options():
            rules.require(sam)
    made = None if given else finder.maps(args.saliency, sam)
    return Finder(maps=made, files=given, sam=sam, rules=rules)


def _for_people(result: Mapping[str, Any]) -> str:
    """The numbers, and what they are of."""
    names = {"miou": "mIoU", "mae": "MAE", "max_f": "max F", "mean_f": "mean F"}
    names["s_measure"] = "S"
    lines = [f"{shown:<8}{result[key]:.4f}" for key, shown in names.items() if key in result]
    counts = [counted(result["images"], "picture")]
    if result["nothing"]:
        counts.append(f"{result['nothing']} of them without anything salient in the map")
    lines.append(f"{', '.join(counts)}. {result['protocol']}")
    lines.append(f"data: {result['data']}; maps: {result['saliency']}")
    if result["model"]:
        lines.append(f"model {result['model']}: {result['model_hash']}")
    resumed = f", {counted(result['resumed'], 'picture')} before" if result["resumed"] else ""
    return "\n".join([*lines, f"{result['seconds']} seconds{resumed}"])
