"""`esam engine loop CONFIG --workdir DIR`: annotating and training in turn, round by round.

The same command resumes where it was stopped.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from esam_jax import outputs
from esam_jax.cli import arguments, run_keys
from esam_jax.machine import compile_cache

_USAGE = "esam engine loop CONFIG --workdir DIR [--pictures PATH] [--field.name value ...]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
    """Trains CONFIG on few labelled pictures, then on those and its own masks of many others.

    CONFIG is a name in `configs/` or a .py file of yours; keys that `esam train` takes may follow.
    Its data, seed and measurement are those of the loop.
    """

    workdir: Path
    """Where rounds, result.json, quality.svg and sheet.png go; finished parts are kept."""
    pictures: str | None = None
    """Pictures with masks, in any form that `esam data check` reads: procedural scenes without."""
    rounds: int = 3
    """Of annotating and training, after the labelled pictures alone."""
    labelled: int = 24
    """Pictures that have masks from the start."""
    unlabelled: int = 240
    """Pictures that are annotated in each round, at most."""
    heldout: int = 150
    """Pictures that quality is measured on."""
    draw: int = 0
    """Which pictures these are, and the seed of training."""
    points_per_side: int = 8
    """Clicks along each side of the grid that finds masks."""
    masks_per_picture: float = 2.0
    """Masks that are annotated in the first round, on average: the most stable ones;"""
    more_masks: float = 1.0
    """so many more in each further round;"""
    pred_iou_thresh: float = 0.5
    """only those whose predicted IoU is above this,"""
    stability_score_thresh: float = 0.75
    """and that are at least so stable."""
    json: bool = False
    """Print the result as JSON."""


def main(argv: Sequence[str]) -> int:
    """Alternates, and prints a line for each round."""
    name, config, rest = arguments.config_first(Loop, argv, prog="esam engine loop", usage=_USAGE)
    prog = f"esam engine loop {name}"
    if "-h" in rest or "--help" in rest:
        run_keys.show(Loop, config, rest, prog=prog)
    args, keys = arguments.parse_known(Loop, rest, prog=prog)
    config = run_keys.parse(config, keys, prog=prog)
    inputs = (Path(args.pictures),) if args.pictures else ()
    outputs.require_folder(args.workdir, inputs=inputs)
    arguments.require_writable(args.workdir)
    compile_cache.enable()
    from esam_jax.engine import alternation  # JAX, which a typing error need not wait for

    names = [field.name for field in dataclasses.fields(alternation.Plan)]
    values = {name: getattr(args, name) for name in names if hasattr(args, name)}
    plan = alternation.Plan(**values, seed=args.draw)
    given = run_keys.named(keys)
    result = alternation.run(config, args.workdir, plan, data=args.pictures, given=given)
    if args.json:
        print(json.dumps(result))
        return 0
    print(f"{alternation.table(result)}\n{alternation.verdict(result)}")
    print(f"look at {args.workdir / alternation.SHEET_FILE}")
    return 0
