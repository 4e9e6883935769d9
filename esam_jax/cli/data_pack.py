"""`esam data pack PATH --out DIR`: any data set in large files that are read by random access."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from esam_jax import outputs
from esam_jax.cli import arguments, named_data
from esam_jax.cli.progress import Progress
from esam_jax.data import packs, sources
from esam_jax.datasets import packing
from esam_jax.errors import ConfigError
from esam_jax.words import counted


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Packs a data set: pictures as the bytes of their files, with all their annotations.

    The same command continues what was stopped. What cannot be used is left out, and listed in
    dropped.csv. `esam train CONFIG --data.source.kind pack --data.source.path DIR` reads it.
    """

    out: Path
    """The folder of the pack."""
    shards: int | None = None
    """How many files; by their size if left out."""
    shard_mib: int = 256
    """About how large they are."""
    max_side: int | None = None
    """Larger pictures are reduced to so many pixels, as JPEG; kept as they are if left out."""
    workers: int | None = None
    """Processes; as many as there are processors. They change nothing in the files."""
    json: bool = False
    """Print the counts as JSON."""


def main(argv: Sequence[str]) -> int:
    """Makes the pack, or what is missing of it."""
    args, named = named_data.parse(Arguments, argv, prog="esam data pack")
    for name, least in (("shards", 1), ("shard_mib", 1), ("max_side", 16)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ConfigError(
                f"--{name.replace('_', '-')} is {value}, but must be at least {least}"
            )
    workers = named_data.workers(args.workers)
    outputs.require_folder(args.out, inputs=[Path(path) for path in sources.paths(named.source)])
    arguments.require_writable(args.out)
    source = sources.open_source(named.source)
    planned = packing.plan(
        source,
        named.source,
        shards=args.shards,
        shard_mib=float(args.shard_mib),
        max_side=args.max_side,
    )
    progress = Progress(len(source), "shard")
    progress.found = planned.shards
    found = packing.write(source, args.out, planned, workers=workers, over=progress.over)
    size = sum(shard.bytes for shard in found.shards)
    counts = {
        "records": found.records,
        "dropped": found.dropped,
        "shards": len(found.shards),
        "bytes": size,
        "annotations": list(found.annotations),
    }
    if args.json:
        print(json.dumps(counts))
        return 0
    kinds = ", ".join(found.annotations) or "no annotations"
    print(
        f"{args.out}: {counted(found.records, 'record')} with {kinds} in "
        f"{counted(len(found.shards), 'shard')}, {size / 2**20:.1f} MiB"
    )
    if found.dropped:
        print(f"{counted(found.dropped, 'record')} dropped: {args.out / packs.DROPPED} says why")
    return 0
