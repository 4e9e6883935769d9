"""`esam data check PATH`: every record read and decoded, and what is wrong with which."""

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from esam_jax import files, outputs
from esam_jax.cli import arguments, named_data
from esam_jax.cli.progress import Progress
from esam_jax.data import sources
from esam_jax.datasets import check
from esam_jax.errors import ConfigError
from esam_jax.words import counted

_SHOWN = 5  # bad records, and groups of equal ones
_CLASSES = 12


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Reads and decodes every record of a data set: what is broken, sizes, masks, duplicates.

    Exits with 2 where more records are broken than `max_broken_share`, or a file of a pack is
    damaged.
    """

    out: Path | None = None
    """A .csv file with a line for each problem: record, kind, text."""
    overwrite: bool = False
    """Replace that file if it exists."""
    max_broken_share: float | None = None
    """Of all records; the config's, or 0.1."""
    workers: int | None = None
    """Processes; as many as there are processors."""
    json: bool = False
    """Print the report as JSON."""


def main(argv: Sequence[str]) -> int:
    """Prints the report; 2 where too much is broken."""
    args, named = named_data.parse(Arguments, argv, prog="esam data check")
    most = args.max_broken_share
    if most is None:
        most = 0.1 if named.run is None else named.run.data.max_broken_share
    if not 0 <= most <= 1:
        raise ConfigError(f"--max-broken-share is {most}, but must be from 0 to 1")
    workers = named_data.workers(args.workers)
    if args.out is not None:
        outputs.require_file(args.out, overwrite=args.overwrite, endings=(".csv",))
        arguments.require_writable(args.out.parent)
    source = sources.open_source(sources.once(named.source))
    progress = Progress(len(source), "problem")
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["record", "kind", "text"])

    def note(problem: check.Problem) -> None:
        progress.found += 1
        lines.writerow([problem.record, problem.kind, problem.text])

    found = check.run(source, workers=workers, over=progress.over, note=note)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        files.write(args.out, text.getvalue().encode(errors="surrogateescape"))
    found = {"kind": named.source.kind, **found, "max_broken_share": most}
    print(json.dumps(found) if args.json else for_people(named.title, found))
    return 2 if found["bad_share"] > most or found["damaged"] else 0


def for_people(title: str, found: Mapping[str, Any]) -> str:
    """The report, a line for each thing."""
    bad = found["bad"]
    lines = [f"{title}: {found['kind']}, {found['data']}"]
    share = f", {found['bad_share']:.2%}" if bad else ""
    lines.append(f"{counted(found['records'], 'record')} read, {bad} of them bad{share}")
    lines += [f"  {each['kind']}: {each['text']}" for each in found["reasons"][:_SHOWN]]
    if bad > _SHOWN:
        lines.append(f"  and {bad - _SHOWN} more: --out FILE.csv has them all")
    lines += [f"damaged: {each}" for each in found["damaged"]]
    lines += [f"found: {each}" for each in found["notes"]]
    if "pictures" in found:
        sizes = found["pictures"]
        formats = ", ".join(f"{name} {count}" for name, count in sizes["formats"].items())
        lines.append(f"height {_spread(sizes['height'])}; width {_spread(sizes['width'])} pixels")
        lines.append(f"formats: {formats}")
    if "masks" in found:
        lines += _masks(found["masks"])
    if "labels" in found:
        lines.append(f"labels: {_classes(found['labels'], 'picture')}")
    if "classes" in found:
        lines += _pixels(found["classes"])
    if "annotators" in found:
        lines.append(f"boundaries: annotators of a picture {_spread(found['annotators'])}")
    for kind, what in (("contents", "the same bytes"), ("names", "one name")):
        same = found["duplicates"][kind]
        if same["records"]:
            lines.append(f"{same['records']} records have {what} as another one:")
            lines += [f"  {' = '.join(group)}" for group in same["groups"][:_SHOWN]]
    if found["bad_share"] > found["max_broken_share"]:
        lines.append(
            f"more than max_broken_share={found['max_broken_share']:.1%} is bad: repair the "
            "records, leave them out, or raise it"
        )
    return "\n".join(line.translate(_UNPRINTABLE) for line in lines)


# Letters that a terminal obeys, and bytes of names that are not UTF-8.
_UNPRINTABLE = dict.fromkeys((*range(32), 127), " ") | dict.fromkeys(range(0xD800, 0xE000), "?")


def _spread(values: Mapping[str, int]) -> str:
    return f"{values['min']} to {values['max']}, median {values['median']}"


def _masks(masks: Mapping[str, Any]) -> list[str]:
    sizes = ", ".join(f"{count} {name}" for name, count in masks["sizes"].items())
    shares = ", ".join(f"{name} {count}" for name, count in masks["shares"].items())
    lines = [
        f"{counted(masks['count'], 'mask')}: {_spread(masks['per_picture'])} a picture, "
        f"{counted(masks['pictures_without'], 'picture')} without",
        f"  sizes (COCO's): {sizes}; shares of the picture: {shares}",
        f"  {counted(masks['pictures_overlapping'], 'picture')} with masks that overlap; "
        f"{masks['covered']:.1%} of all pixels lie in a mask, {masks['covered_twice']:.1%} in "
        "several",
    ]
    odd = {
        "cover no pixel": masks["empty"],
        "are broken": masks["broken"],
        "cover a complete picture": masks["complete"],
        "repeat an id of their picture": masks["ids_repeated"],
    }
    if any(odd.values()):
        lines.append("  " + ", ".join(f"{count} {what}" for what, count in odd.items() if count))
    return lines


def _classes(counts: Mapping[str, int], noun: str) -> str:
    """How many there are, and the most frequent ones."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{name} {count}" for name, count in ranked[:_CLASSES])
    more = f", and {len(ranked) - _CLASSES} more" if len(ranked) > _CLASSES else ""
    fewest = counted(ranked[-1][1], noun)
    return f"{counted(len(ranked), 'class', 'classes')}, at least {fewest} each: {shown}{more}"


def _pixels(classes: Mapping[str, Any]) -> list[str]:
    ranked = sorted(classes["shares"].items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{name} {share:.1%}" for name, share in ranked[:_CLASSES])
    more = f", and {len(ranked) - _CLASSES} more" if len(ranked) > _CLASSES else ""
    unnamed = classes["without_name"]
    rest = [f"void {classes['void']:.1%}"]
    rest += [f"values without a name {unnamed:.1%}"] if unnamed else []
    number = counted(len(ranked), "class", "classes")
    return [f"pixels of {number}: {shown}{more}; {', '.join(rest)}"]
