"""`esam evaluate prompts`: boxes and clicks against the labelled masks of pictures."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from esam_jax import outputs
from esam_jax.cli import arguments
from esam_jax.config import SourceConfig
from esam_jax.convert import load as models
from esam_jax.data import findings, sources
from esam_jax.data.findings import KINDS
from esam_jax.errors import ConfigError
from esam_jax.evaluate import protocol, runner
from esam_jax.evaluate.clicking import Click
from esam_jax.evaluate.protocol import SIZES, Protocol
from esam_jax.machine import compile_cache
from esam_jax.predict import load
from esam_jax.report import measured
from esam_jax.words import counted

# Of a source.
_READ_BY = ("split", "crowds", "ambiguous_exif", "sixteen_bit", "ids", "part", "heldout")


@dataclasses.dataclass(frozen=True)
class Prompts:
    """mIoU of the masks that a model finds for boxes and clicks on labelled objects.

    Most confident mask and oracle, by size, with the spread over seeds. With --out: objects.csv,
    pictures.csv, the worst pictures, charts; the same command resumes where it was stopped.
    """

    model: str
    """A model folder, run folder, RUN@STEP, .pt, .pth or .safetensors file, or preset."""
    data: tuple[str, ...]
    """One or more of: the word scenes, a COCO or LVIS json, its picture folder, a folder of
    sa_*.json, a folder with images/ and instances/ (maps of object numbers), a COCO panoptic json,
    BSDS500, a folder of videos as DAVIS or SA-V."""
    images: int | None = 100
    """How many pictures of each, drawn with the first seed; None for all."""
    masks_per_image: int | None = 32
    """How many masks of each picture at most, drawn with the first seed; None for all."""
    boxes: Literal["tight", "given", "none"] = "tight"
    """Boxes around the masks, those that the annotations give, or none."""
    points: tuple[int, ...] = (1,)
    """Numbers of clicks, such as 1 2 3 5 9."""
    clicks: tuple[Click, ...] = ("uniform",)
    """Anywhere in the mask; as deep inside as possible, each further one where the answer is wrong;
    or the same after a first one anywhere."""
    seeds: tuple[int, ...] = (0,)
    """Each draws the clicks once more; several give the spread of what is drawn."""
    feed_back: bool = False
    """With each further click (centre, random_first) give the model the logits of its answer."""
    several: Literal["trained", "single", "candidates"] = "trained"
    """What answers several points: the single mask or the best candidate; `trained`: the single
    mask where it was trained."""
    min_area_px: int = protocol.MIN_AREA_PX
    """Masks of fewer pixels are left out."""
    split: str | None = None
    """Of data that comes in splits, the one to read: val of BSDS500, 2017/val of DAVIS."""
    crowds: Literal["leave_out", "use"] = "leave_out"
    """What is done with objects marked as crowds; they are counted either way."""
    ambiguous_exif: Literal["upright", "stored"] = "upright"
    """How a picture turned by EXIF is read where the annotations' size fits both readings."""
    sixteen_bit: Literal["upper_byte", "stretch"] = "upper_byte"
    """Grey values of 16 bits: their upper byte, or stretched from the lowest to the highest."""
    ids: str | None = None
    """A text file that names the pictures to read, one a line, as esam data subset writes it."""
    part: Literal["all", "train", "heldout"] = "all"
    """Pictures of each, as `esam train --data.source.part`: those held out, or the others."""
    heldout: int = 0
    """How many are held out, with --part: the number that the training was given."""
    out: Path | None = None
    """Folder for per-object results, the worst pictures and charts; resumes what is in it."""
    json: bool = False
    """Print the result as JSON."""


def main(argv: Sequence[str]) -> int:
    """Prints the numbers; a missing model or data set is reported before weights are read."""
    args = arguments.parse(Prompts, argv, prog="esam evaluate prompts")
    rules = _protocol(args)
    models.locate(args.model)
    if len(set(args.data)) < len(args.data):
        raise ConfigError(f"--data is {' '.join(args.data)}, but each data set counts once")
    configs = {name: _source(name, args) for name in args.data}
    if args.out is not None:
        read = [Path(name) for name in args.data if name != "scenes"]
        read += [] if args.ids is None else [Path(args.ids)]
        outputs.require_folder(args.out, inputs=read)
        arguments.require_writable(args.out)
    needs = frozenset({"masks"})
    data = {name: sources.open_source(each, "", needs) for name, each in configs.items()}
    compile_cache.enable()
    sam = load(args.model)
    with _by_options():
        read_by = {name: getattr(args, name) for name in _READ_BY}
        result = runner.evaluate(sam, data, rules, out=args.out, model=args.model, read_by=read_by)
    if args.out is not None:
        measured.write(args.out, result["numbers"], args.out / runner.OBJECTS_FILE)
    print(json.dumps(result) if args.json else for_people(result))
    return 0


def _protocol(args: Prompts) -> Protocol:
    """ConfigError, with the names of options, for one that is none."""
    with _by_options():
        names = (field.name for field in dataclasses.fields(Protocol))
        return Protocol(**{name: getattr(args, name) for name in names})


@contextlib.contextmanager
def _by_options() -> Iterator[None]:
    """A ConfigError that begins with a field of the protocol begins with its option instead."""
    try:
        yield
    except ConfigError as fault:
        first, _, rest = str(fault).partition(" ")
        if first not in (field.name for field in dataclasses.fields(Protocol)):
            raise
        raise ConfigError(f"--{first.replace('_', '-')} {rest}") from None


def _source(name: str, args: Prompts) -> SourceConfig:
    """The data, read as the arguments say; ConfigError for one that such data does not know."""
    found = sources.detect(name)
    fields = {field.name: field.default for field in dataclasses.fields(Prompts)}
    chosen = {key: getattr(args, key) for key in _READ_BY if getattr(args, key) != fields[key]}
    for key, value in chosen.items():
        if not hasattr(found, key):
            option = f"--{key.replace('_', '-')}"
            raise ConfigError(f"{option} is {value!r}, but {found.kind} has no such choice")
    return dataclasses.replace(found, **chosen)


def for_people(result: Mapping[str, Any]) -> str:
    """A table, and what it is of."""
    rows: list[tuple[str, ...]] = [("mIoU", *SIZES, "oracle", "masks")]
    for (prompt, points), each in _by_prompt(result["numbers"]).items():
        cells = [_cell(each.get(("confident", size))) for size in SIZES]
        everything = each["confident", "all"]
        name = f"{counted(points, 'point')}, {prompt.replace('_', ' ')}" if points else prompt
        oracle = _cell(each["oracle", "all"])
        rows.append((name, *cells, oracle, str(everything["masks"])))
    rows.append(("filled box", f"{result['fill_box']:.4f}", "", "", "", "", ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    if len(result["data"]) > 1:
        lines += [_of_set(each["name"], result["numbers"]) for each in result["data"]]
    for row in result["published"]["rows"]:
        lines.append(
            f"published ({row['source']}; {row['note']}): {row['model']}, {row['data']}, "
            f"{row['column'].replace('_', ' ')} {row['miou']:.3f}"
        )
    lines += [f"no published numbers: {reason}" for reason in result["published"]["left_out"]]
    lines.append(f"{_counts(result)}. {result['protocol']}")
    lines += [f"data {each['name']}: {each['hash']}" for each in result["data"]]
    done = result["resumed"]
    resumed = f", {counted(done, 'picture')} measured before" if done else ""
    lines.append(f"model {result['model']}: {result['model_hash']}")
    return "\n".join([*lines, f"{result['seconds']} seconds{resumed}"])


def _by_prompt(numbers: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], dict]:
    """Rows by (prompt, points), then by (mask, size)."""
    found: dict[tuple[str, int], dict] = {}
    for row in numbers:
        found.setdefault((row["prompt"], row["points"]), {})[row["mask"], row["size"]] = row
    return found


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    return f"{row['miou']:.4f}" + (f" ± {row['std']:.4f}" if "std" in row else "")


def _of_set(name: str, numbers: Sequence[Mapping[str, Any]]) -> str:
    shown = [
        f"{row['prompt']}{' ' + str(row['points']) if row['points'] else ''} "
        f"{row['data'][name]:.4f}"
        for row in numbers
        if row["mask"] == "confident" and row["size"] == "all" and name in row["data"]
    ]
    return f"{name}: {', '.join(shown)}"


def _counts(result: Mapping[str, Any]) -> str:
    broken = result["skipped"]
    counts = [f"{counted(broken, 'broken picture')} left out"] if broken else []
    for kind in KINDS:
        total = sum(each.get(kind, 0) for each in result["data"])
        counts += [findings.in_words(kind, total)] if total else []
    noted = f" ({', '.join(counts)})" if counts else ""
    return f"{counted(result['masks'], 'mask')} in {counted(result['images'], 'picture')}{noted}"
