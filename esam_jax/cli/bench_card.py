"""`esam bench card --out DIR`: everything that one card should be asked, in about ten minutes."""

import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from esam_jax.card import campaign, setting
from esam_jax.card.sections import SECTIONS
from esam_jax.cli import arguments
from esam_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Card:
    """Parity, speed, memory, kernels against paper, and faults on this machine's first device.

    Every section runs in a process of its own. DIR gets card.json and card.md after each of them;
    the same command with the same DIR measures what is missing. Exit code 1 when a section failed
    or a check did not hold.
    """

    out: Path
    """The folder for card.json and card.md."""
    preset: setting.Preset = "full"
    """full: the paper's models, for an A100 or larger. small: nano models, to try it on a CPU."""
    sections: tuple[str, ...] = tuple(SECTIONS)
    """Which of the sections to measure, in this order."""
    minutes: float = 10.0
    """About how long all may take; each section has a share, and stops after it."""
    memory_gib: float | None = None
    """Memory that programs may take; by default what the device reports."""
    overwrite: bool = False
    """Measure the sections again that DIR holds already."""
    json: bool = False
    """Print the record as JSON."""


def main(argv: Sequence[str]) -> int:
    """Measures; nothing is started before the arguments and the folder are right."""
    args = arguments.parse(Card, argv, prog="esam bench card")
    unknown = [name for name in args.sections if name not in SECTIONS]
    if unknown:
        raise ConfigError(
            f"--sections names {unknown[0]!r}, but must be some of {', '.join(SECTIONS)}"
        )
    if not args.minutes > 0:
        raise ConfigError(f"--minutes is {args.minutes}, but must be above 0")
    chosen = setting.PRESETS[args.preset]
    if args.memory_gib is not None:
        if not args.memory_gib > 0:
            raise ConfigError(f"--memory-gib is {args.memory_gib}, but must be above 0: GiB")
        chosen = dataclasses.replace(chosen, memory_bytes=int(args.memory_gib * 2**30))
    arguments.require_writable(args.out)
    options = campaign.Options(
        out=args.out,
        sections=tuple(name for name in SECTIONS if name in args.sections),
        minutes=args.minutes,
        overwrite=args.overwrite,
        command=f"esam bench card {shlex.join(argv)}",
    )
    record = campaign.run(chosen, options, _say)
    if args.json:
        print(json.dumps(record))
    else:
        print(f"look at {args.out / campaign.PAGE} and {args.out / campaign.FILE}")
    return 0 if record["holds"] else 1


def _say(text: str) -> None:
    print(f"esam: {text}", file=sys.stderr, flush=True)
