"""`esam data show CONFIG|PATH --out sheet.png`: examples as a run sees them, or records."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from esam_jax import files, outputs
from esam_jax.cli import arguments, named_data
from esam_jax.data import sources
from esam_jax.errors import ConfigError

_MOST = 400  # cells of a page


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Draws examples on one page, each above the name of its record.

    Of a config: the examples of its batches, exactly as its updates see them, with their masks and
    first prompts. Of a path: pictures with all masks, labels, classes and boundaries.
    """

    out: Path
    """A .png file."""
    examples: int = 16
    """How many."""
    seed: int | None = None
    """Of the order and of all that is drawn at random; the config's, or 0."""
    first_batch: int = 0
    """Of a config: the batch that the first example begins."""
    overwrite: bool = False
    """Replace that file if it exists."""
    json: bool = False
    """Print the names of what is shown as JSON."""


def main(argv: Sequence[str]) -> int:
    """Writes the page; DataError where there is nothing to show."""
    args, named = named_data.parse(Arguments, argv, prog="esam data show")
    if not 1 <= args.examples <= _MOST:
        raise ConfigError(f"--examples is {args.examples}, but must be from 1 to {_MOST}")
    if args.first_batch < 0 or (args.seed is not None and args.seed < 0):
        raise ConfigError("--first-batch and --seed must be at least 0")
    if named.run is None and args.first_batch:
        raise ConfigError(
            f"--first-batch is of a config, and {named.title} is a path: leave it out"
        )
    outputs.require_file(args.out, overwrite=args.overwrite, endings=(".png",))
    arguments.require_writable(args.out.parent)
    needs = frozenset() if named.run is None else named.run.data.view.needs
    source = sources.open_source(named.source, needs=needs)

    from esam_jax.datasets import show  # JAX, which a typing error need not wait for
    from esam_jax.predict import draw

    broken: list[str] = []

    def left_out(reason: str) -> None:
        print(f"esam: left out: {reason}", file=sys.stderr)
        broken.append(reason)

    if named.run is None:
        found = show.records(source, seed=args.seed or 0, left_out=left_out)
    else:
        run = named.run
        seed = run.seed if args.seed is None else args.seed
        found = show.examples(
            source, run.data, seed=seed, batch=run.batch, first_batch=args.first_batch
        )
    page, names = show.sheet(found, args.examples)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    files.write(args.out, draw.png(page))
    print(json.dumps({"names": names, "left_out": broken}) if args.json else f"{args.out}")
    return 0
