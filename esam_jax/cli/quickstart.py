"""`esam quickstart`: pretraining, fine-tuning and masks in one go, on procedural scenes.

Exits with 0 when SAMI gains what `study/claim.py` says that it must, with 1 when it does not: the
shipped configs promise it, so that is a defect.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from esam_jax.cli import arguments
from esam_jax.errors import ConfigError
from esam_jax.machine import compile_cache
from esam_jax.study.design import CHOOSING


@dataclasses.dataclass(frozen=True)
class Quickstart:
    """SAMI, MAE and scratch from one teacher's decoder, after 40 to 640 prompted steps: a table."""

    workdir: Path = Path("runs/quickstart")
    """Where runs, summary.json, curves/ and contact_sheet.png go; finished parts are kept."""
    seed: int = 0
    json: bool = False
    """Print the summary with the verdict (`claim`) as JSON."""


def main(argv: Sequence[str]) -> int:
    """Trains, measures, and prints the table with the verdict."""
    args = arguments.parse(Quickstart, argv, prog="esam quickstart")
    if not 0 <= args.seed < CHOOSING:
        raise ConfigError(f"--seed is {args.seed}, but must be from 0 to below {CHOOSING}")
    arguments.require_writable(args.workdir)
    compile_cache.enable()

    from esam_jax.study import claim  # import JAX only once the arguments are right

    summary = claim.run(args.workdir, seed=args.seed)
    holds, verdict = summary["claim"]["holds"], claim.verdict(summary)
    if args.json:
        print(json.dumps(summary))
    else:
        print(f"{claim.text(summary)}\n{verdict}")
        took = "" if summary["seconds"] is None else f"{summary['seconds']:.0f} seconds; "
        print(f"{took}look at {args.workdir / claim.SHEET_FILE} and page.html beside it")
    if not holds:
        print(f"esam: {verdict}", file=sys.stderr)
    return 0 if holds else 1
