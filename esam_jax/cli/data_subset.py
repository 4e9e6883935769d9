"""`esam data subset PATH --out ids.txt`: a list of the pictures that rules choose."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from esam_jax import outputs
from esam_jax.cli import arguments, named_data
from esam_jax.cli.progress import Progress
from esam_jax.data import id_lists, sources
from esam_jax.datasets import subset
from esam_jax.errors import DataError
from esam_jax.words import counted

_SHOWN = 5  # broken records


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Lists the pictures of a data set that fit all rules: `--data.source.ids FILE` reads them.

    A share is chosen by the names alone: of one seed, 1 % lies in 10 %, and what is chosen stays so
    when pictures are added. With other rules masks are decoded.
    """

    out: Path
    """A .txt file, one name a line."""
    share: float = 1.0
    """Of the pictures, on average."""
    seed: int = 0
    """Of that share."""
    min_area: int | None = None
    """Pixels of a mask; only masks within these limits count."""
    max_area: int | None = None
    """Pixels of a mask."""
    min_masks: int | None = None
    """Of a picture; one, if an area is limited and `max_masks` is not."""
    max_masks: int | None = None
    """Of a picture."""
    workers: int | None = None
    """Processes; as many as there are processors."""
    overwrite: bool = False
    """Replace the file if it exists."""
    json: bool = False
    """Print the counts as JSON."""


def main(argv: Sequence[str]) -> int:
    """Writes the list; DataError where no picture fits."""
    args, named = named_data.parse(Arguments, argv, prog="esam data subset")
    names = (field.name for field in dataclasses.fields(subset.Rules))
    rules = subset.Rules(**{name: getattr(args, name) for name in names})
    workers = named_data.workers(args.workers)
    ids = getattr(named.source, "ids", None)
    inputs = [Path(ids)] if ids is not None else []
    outputs.require_file(args.out, overwrite=args.overwrite, inputs=inputs, endings=(".txt",))
    arguments.require_writable(args.out.parent)
    source = sources.open_source(sources.once(named.source))
    progress = Progress(round(len(source) * rules.share), "broken picture")
    found = subset.choose(source, rules, workers=workers, over=progress.over)
    for reason in found.broken[:_SHOWN]:
        print(f"esam: left out: {reason}", file=sys.stderr)
    if not found.names:
        broken = f", of which {len(found.broken)} are broken" if found.broken else ""
        raise DataError(
            f"no picture of {named.title} fits: {found.in_share} of {len(source)} are in the share"
            f"{broken}; widen the rules"
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    id_lists.write(args.out, found.names)
    counts = {
        "chosen": len(found.names),
        "records": len(source),
        "in_share": found.in_share,
        "broken": len(found.broken),
    }
    if args.json:
        print(json.dumps(counts))
        return 0
    broken = f", {counted(len(found.broken), 'broken one')} left out" if found.broken else ""
    print(f"{args.out}: {len(found.names)} of {counted(len(source), 'picture')}{broken}")
    return 0
