"""`esam engine auto PATH --model M --out DIR`: `esam everything` as SA-1B was made."""

import dataclasses
import json
from collections.abc import Sequence

from esam_jax.cli import arguments, everything


@dataclasses.dataclass(frozen=True)
class Auto(everything.Everything):
    """Every mask of pictures by the settings of SA-1B: those of `esam everything --preset sa1b`."""

    preset: everything.Preset | None = "sa1b"
    """Whose thresholds and algorithm: those of SA-1B."""


def main(argv: Sequence[str]) -> int:
    """Makes the masks, and prints what was done."""
    args = arguments.parse(Auto, argv, prog="esam engine auto")
    report, text = everything.run(args)
    print(json.dumps(report) if args.json else text)
    return 0
