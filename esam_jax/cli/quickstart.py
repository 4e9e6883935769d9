"""`esam quickstart`: pretraining, fine-tuning and masks in one go, on procedural scenes."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from esam_jax.cli import arguments
from esam_jax.machine import compile_cache


@dataclasses.dataclass(frozen=True)
class Quickstart:
    """SAMI pretraining from the shipped teacher, prompts, a twin from scratch, and a table."""

    workdir: Path = Path("runs/quickstart")
    """Where runs, summary.json, curves.png and contact_sheet.png go; finished parts stay."""
    seed: int = 0
    json: bool = False
    """Print the summary as JSON."""


def main(argv: Sequence[str]) -> int:
    """Runs the chain and prints what it measured."""
    args = arguments.parse(Quickstart, argv, prog="esam quickstart")
    arguments.require_writable(args.workdir)
    compile_cache.enable()

    from esam_jax.study import quickstart  # starts JAX, which a typing error need not wait for

    summary = quickstart.run(args.workdir, seed=args.seed)
    if args.json:
        print(json.dumps(summary))
    else:
        print(quickstart.table(summary))
        took = "" if summary["seconds"] is None else f"{summary['seconds']:.0f} seconds; "
        print(f"{took}look at {args.workdir / 'contact_sheet.png'}")
    return 0
