"""`esam engine merge DIR CORRECTED.json`: what a person corrected, as data to train on."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from esam_jax.cli import arguments
from esam_jax.engine import corrections
from esam_jax.words import counted

_SHOWN = 10  # broken annotations


@dataclasses.dataclass(frozen=True)
class Merge:
    """Keeps CORRECTED.json and writes DIR/instances.json of all that came back so far.

    `esam train finetune --data.source.path DIR/instances.json` trains on it.
    """

    folder: tyro.conf.Positional[Path]
    """The folder that `esam engine assist` or `semi` wrote."""
    corrected: tyro.conf.Positional[Path]
    """COCO json of some of its pictures, as an annotation tool wrote it."""
    json: bool = False
    """Print what was found as JSON."""


def main(argv: Sequence[str]) -> int:
    """Merges, names what is broken, and prints the counts."""
    args = arguments.parse(Merge, argv, prog="esam engine merge")
    arguments.require_writable(args.folder)
    report = corrections.merge(args.folder, args.corrected)
    texts = list(report["broken"])
    if unknown := report["unknown"]:
        others = f"{counted(len(unknown), 'picture')} not in {args.folder}"
        texts.insert(0, f"{others}, the first {unknown[0]!r}")
    for text in texts[:_SHOWN]:
        print(f"esam: warning: {args.corrected}: {text}; left out", file=sys.stderr)
    if len(texts) > _SHOWN:
        more = f"{len(texts) - _SHOWN} more were left out (--json names them)"
        print(f"esam: warning: {more}", file=sys.stderr)
    if args.json:
        print(json.dumps(report))
        return 0
    counts = ", ".join(f"{report[name]} {name}" for name in corrections.COUNTS)
    again = "; it was merged before" if report["again"] else ""
    print(f"{counted(report['pictures'], 'picture')}: {counts}{again}")
    data = (
        f"{counted(report['data_masks'], 'mask')} in {counted(report['data_pictures'], 'picture')}"
    )
    print(f"{report['data']} has {data}; {report['waiting']} waiting")
    return 0
