"""`esam bench data CONFIG`: what the examples of a run cost, stage by stage, and how many come."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from esam_jax import files, outputs
from esam_jax.bench import conditions, loading, tables
from esam_jax.cli import arguments, run_keys
from esam_jax.data import sources

_USAGE = "esam bench data CONFIG [--workers 0 1 2] [--rate N] [--field.name value ...]"


@dataclasses.dataclass(frozen=True)
class Data:
    """Examples per second of one core for each stage, and of the loader with worker processes.

    read: the file and its annotations. decode: its pixels. masks: those that were drawn. view: what
    else makes an example of them. batch and to device: arrays of all. Below, the decoders alone on
    the same JPEGs. Any key of the config works as for `esam train`.
    """

    examples: int = 64
    """How many are timed by stage."""
    workers: tuple[int, ...] = (0, 1, 2)
    """Worker processes of the loader, each number in turn; 0 makes them in threads."""
    seconds: float = 5.0
    """How long the loader is timed with each."""
    loader_batch: int = 32
    """Examples of one batch of the loader."""
    rate: float | None = None
    """Examples a second that a host shall have: says how many cores like this one that takes."""
    json: Path | None = None
    """A .json file for everything that was measured."""
    overwrite: bool = False
    """Replace that file."""


def main(argv: Sequence[str]) -> int:
    """Prints the figures as they come."""
    name, config, rest = arguments.config_first(Data, argv, prog="esam bench data", usage=_USAGE)
    prog = f"esam bench data {name}"
    if "-h" in rest or "--help" in rest:
        run_keys.show(Data, config, rest, prog=prog)
    args, keys = arguments.parse_known(Data, rest, prog=prog)
    config = run_keys.parse(config, keys, prog=prog)
    loading.require(args.examples, args.seconds, args.workers)
    if args.json is not None:
        outputs.require_file(args.json, overwrite=args.overwrite, endings=(".json",))
        arguments.require_writable(args.json.parent)
    source = sources.open_source(config.data.source, needs=config.data.view.needs)
    about: dict[str, Any] = {
        "command": "esam bench data",
        "config": name,
        "source": config.data.source.kind,
        "records": len(source),
        **conditions.machine(),
        "versions": conditions.versions(),
    }
    print(
        f"{name}: {config.data.view.kind} views of {len(source)} records ({about['source']}), "
        f"{args.examples} of them by stage; {about['cores']} cores, load {about['load']:.1f}; "
        f"{tables.versions(about)}"
    )
    found = loading.stages(source, config.data, examples=args.examples, seed=config.seed)
    print("\n".join(_table(found)), flush=True)
    if args.rate is not None:
        print(
            f"{args.rate:g} examples/s take {loading.cores(found, args.rate):.1f} cores like this"
        )
    rates = []
    for workers in args.workers:
        chosen = loading.of_workers(config.data, workers)
        rates.append(loading.rate(source, chosen, batch=args.loader_batch, seconds=args.seconds))
        print(_line(rates[-1]), flush=True)
    about["load_after"] = os.getloadavg()[0]
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        files.write(args.json, json.dumps(about | loading.as_json(found, rates), indent=1) + "\n")
    return 0


def _table(found: loading.Stages) -> list[str]:
    """A line for each stage, then the sum, then the decoders alone."""
    every = sum(stage.cpu for stage in found.stages.values())
    lines = [f"{'stage':12}{'CPU ms':>10}{'ms':>10}{'share':>8}{'per core/s':>12}{'Mpixel/s':>10}"]
    for name, stage in found.stages.items():
        lines.append(_row(name, stage, f"{stage.cpu / every:.0%}" if every else "-"))
    total = loading.Stage(every, sum(stage.wall for stage in found.stages.values()))
    lines.append(_row("example", total, ""))
    lines += [_row(f"({name})", stage, "") for name, stage in found.bare.items()]
    if found.bytes:
        lines.append(f"a picture file has {found.bytes / 1e3:.0f} kB")
    return lines


def _row(name: str, stage: loading.Stage, share: str) -> str:
    pixels = f"{stage.pixels_per_second / 1e6:.1f}" if stage.pixels else ""
    times = f"{1e3 * stage.cpu:10.3f}{1e3 * stage.wall:10.3f}"
    return f"{name:12}{times}{share:>8}{stage.per_second:12.1f}{pixels:>10}"


def _line(found: loading.Rate) -> str:
    processes = f"{found.workers} worker processes" if found.workers else "no worker process"
    return f"loader, {processes}, {found.threads} threads: {found.per_second:.1f} examples/s"
