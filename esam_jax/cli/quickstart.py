"""`esam quickstart`: pretraining, fine-tuning and masks in one go, on procedural scenes.

Exits with 0 when SAMI beats its twin from scratch by the gates of `study/sami_gain.py`, with 1 when
it does not: the shipped configs promise it, so that is a defect.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from esam_jax.cli import arguments
from esam_jax.machine import compile_cache


@dataclasses.dataclass(frozen=True)
class Quickstart:
    """SAMI pretraining from the shipped teacher, prompts, a twin from scratch, and a table."""

    workdir: Path = Path("runs/quickstart")
    """Where runs, summary.json, curves.svg and contact_sheet.png go; finished parts are kept."""
    seed: int = 0
    json: bool = False
    """Print the summary with the verdict (`claim`) as JSON."""


def main(argv: Sequence[str]) -> int:
    """Trains, measures, and prints the table with the verdict."""
    args = arguments.parse(Quickstart, argv, prog="esam quickstart")
    arguments.require_writable(args.workdir)
    compile_cache.enable()

    from esam_jax.study import sami_gain  # import JAX only once the arguments are right

    summary = sami_gain.run(args.workdir, seed=args.seed)
    holds, verdict = summary["claim"]["holds"], sami_gain.verdict(summary)
    if args.json:
        print(json.dumps(summary))
    else:
        print(f"{sami_gain.table(summary)}\n{verdict}")
        took = "" if summary["seconds"] is None else f"{summary['seconds']:.0f} seconds; "
        print(f"{took}look at {args.workdir / 'contact_sheet.png'}")
    if not holds:
        print(f"esam: {verdict}", file=sys.stderr)
    return 0 if holds else 1
