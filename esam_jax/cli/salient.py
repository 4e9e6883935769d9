"""`esam salient PATH --model M --out DIR`: salient objects of a picture, a folder or a tar archive.

Three clicks are drawn in a saliency map, as EfficientSAM did it. The same command resumes where it
was stopped.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tyro

from esam_jax import outputs
from esam_jax.cli import arguments
from esam_jax.cli.progress import Progress
from esam_jax.convert import load as models
from esam_jax.data import archives, decode
from esam_jax.data.archives import Album
from esam_jax.data.findings import Findings
from esam_jax.errors import ConfigError, DataError, MissingError, PromptError
from esam_jax.machine import compile_cache
from esam_jax.predict import load
from esam_jax.predict.everything import album as albums
from esam_jax.predict.zero_shot import finder, map_files, salient_album
from esam_jax.predict.zero_shot.finder import Finder
from esam_jax.predict.zero_shot.salient import Rules
from esam_jax.words import counted


@dataclasses.dataclass(frozen=True)
class Salient:
    """Salient objects without a person's prompt: maps/, masks/ and overlays/ NAME.png, masks.json.

    A picture in whose map nothing is inside has no mask; it is counted.
    """

    path: tyro.conf.Positional[Path]
    """A picture, a folder of pictures at any depth, or a tar archive."""
    model: str
    """A model folder, run folder, .pt, .pth or .safetensors file, or preset."""
    out: Path
    """Folder for the results; what is done there already is not done again."""
    saliency: str = "contrast"
    """Where maps come from: a file of U-2-Net (u2net.pth, u2netp.pth or what `esam convert` made of
    it); the contrast of the model's own masks of everything; or centre, a mere prior."""
    map: Path | None = None
    """Maps of your own instead: a grey picture, or a folder with one for each picture, by name."""
    points: int = 3
    """Clicks in each map, drawn uniformly."""
    threshold: float = 0.5
    """From here on, of 0 to 1, a value of the map is inside."""
    instances: bool = False
    """A mask for each part of the map that touches no other, instead of one for all."""
    min_region: float = 0.005
    """With --instances: smaller parts are left out, as a share of the picture."""
    seed: int = 0
    """Of the clicks, with the pixels of the picture."""
    overlays: bool = False
    """Draw map, clicks and masks of each picture done now, and a sheet of the first 60; one alone
    always is."""
    part: str = "0/1"
    """I/N: of N hosts that share the work, this is host I, from 0."""
    sixteen_bit: decode.SixteenBit = "upper_byte"
    """Grey values of 16 bits: their upper byte, or stretched from the lowest to the highest."""
    json: bool = False
    """Print what was done as JSON."""


def main(argv: Sequence[str]) -> int:
    """Album, maps, model and folder are checked before weights are read."""
    args = arguments.parse(Salient, argv, prog="esam salient")
    mine = arguments.part_of(args.part)
    rules = rules_of(args)
    pictures = archives.open_album(args.path)
    given = () if args.map is None else (args.map,)
    outputs.require_folder(args.out, inputs=(args.path, *given))
    arguments.require_writable(args.out)
    maps = _maps(args, pictures)
    models.locate(args.model)
    require_saliency(args.saliency, bool(given))
    found = _settled(args, maps, rules)
    names = salient_album.waiting(found, pictures, args.out, mine)
    report = _run(args, found, pictures, names) | {"out": str(args.out)}
    report["left_out"] = dict(pictures.left_out)
    report["listed"] = salient_album.merge(pictures, args.out)
    if args.overlays:
        salient_album.sheet(pictures, args.out)
    already = len(pictures.names[mine[0] :: mine[1]]) - len(names)
    print(json.dumps(report) if args.json else _text(report, already, len(pictures.names)))
    return 0


def rules_of(args: Any) -> Rules:
    """The arguments that `Rules` has; PromptError names the option of one that it refuses."""
    with by_options():
        return Rules(**{each.name: getattr(args, each.name) for each in dataclasses.fields(Rules)})


@contextlib.contextmanager
def by_options() -> Iterator[None]:
    """A PromptError about a rule begins with the option that gives it."""
    try:
        yield
    except PromptError as error:
        names = [each.name for each in dataclasses.fields(Rules)]
        if error.argument is None or error.argument not in names:
            raise
        raise PromptError(f"--{error.argument.replace('_', '-')} {error.problem}") from None


def require_saliency(saliency: str, with_maps: bool) -> None:
    """An error, before weights are read, for a network that is not there, or not needed."""
    if with_maps and saliency != "contrast":
        raise ConfigError(
            f"--saliency is {saliency!r}, but the maps are given already: leave it out"
        )
    if saliency not in finder.WORDS:
        models.locate(saliency)


def _maps(args: Salient, pictures: Album) -> dict[str, Path]:
    """The map of each picture, where there are some; each is there."""
    if args.map is None:
        return {}
    if not args.map.exists():
        raise MissingError(
            f"--map is {args.map}, which does not exist: name a grey picture, or a folder with one "
            "for each picture"
        )
    if not args.map.is_dir():
        if len(pictures.names) > 1:
            raise ConfigError(
                f"--map is {args.map}, but there are {len(pictures.names)} pictures: name a folder "
                "with a map for each"
            )
        return dict.fromkeys(pictures.names, args.map)
    return map_files.of(args.map, pictures.names)


def _settled(args: Salient, maps: dict[str, Path], rules: Rules) -> Finder:
    """What finds the objects, once its settings and weights are those of the folder."""
    compile_cache.enable()
    sam = load(args.model)
    with by_options():
        rules.require(sam)
    made = None if maps else finder.maps(args.saliency, sam)
    found = Finder(maps=made, files=maps, sam=sam, rules=rules)
    settings = found.about()
    if maps:
        settings["saliency"] = "files"  # each picture's json says which, so that one may change
    if args.sixteen_bit != "upper_byte":
        settings["sixteen_bit"] = args.sixteen_bit
    name, results = salient_album.SETTINGS_FILE, salient_album.RESULTS
    # Also where all pictures are done: masks of other weights would pass for these.
    albums.settle(args.out, settings, name, results)
    return found


def _run(args: Salient, found: Finder, pictures: Album, names: list[str]) -> dict[str, Any]:
    """Counts of what was done; DataError where no picture could be read."""
    masks, nothing, broken, noted = 0, [], {}, []
    shown = Progress(len(names), "mask")
    single = args.path.is_file() and len(pictures.names) == 1
    done = salient_album.run(
        found,
        pictures,
        names,
        args.out,
        with_overlays=args.overlays or single,
        sixteen_bit=args.sixteen_bit,
        noted=noted,
    )
    for each in shown.over(done):
        if each.broken is not None:
            broken[each.name] = each.broken
            shown.say(f"warning: {each.name}: {each.broken}")
            continue
        shown.found = masks = masks + each.masks
        if not each.masks:
            nothing.append(each.name)
    for text in Findings(sorted(noted)).in_words():
        shown.say(f"warning: {text}")
    if len(broken) == len(pictures.names):
        raise DataError(f"no picture of {args.path} could be read: {next(iter(broken.values()))}")
    if nothing:
        shown.say(
            f"warning: nothing is salient in {counted(len(nothing), 'picture')}, the first "
            f"{nothing[0]}: no value of the map reaches {args.threshold:g}"
        )
    pictures_done = len(names) - len(broken)
    return {"pictures": pictures_done, "masks": masks, "nothing": nothing, "broken": broken}


def _text(report: dict[str, Any], already: int, pictures: int) -> str:
    """The report for a reader."""
    found = f"{counted(report['pictures'], 'picture')}, {counted(report['masks'], 'mask')}"
    text = f"{found} in {report['out']}; {already} done before"
    text += f"; {len(report['broken'])} could not be read" if report["broken"] else ""
    return f"{text}; {salient_album.LIST_FILE} lists {report['listed']} of {pictures}"
