"""`esam evaluate edges`: anybody's edge maps beside the boundaries of BSDS500."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from esam_jax.cli import arguments
from esam_jax.config import BsdsConfig
from esam_jax.data import parallel, sources
from esam_jax.errors import ConfigError
from esam_jax.evaluate import edge_scores


@dataclasses.dataclass(frozen=True)
class Arguments:
    """ODS, OIS, AP and R50 of a folder of edge maps, as the benchmark of BSDS500 has them.

    A map is a grey PNG of 8 or 16 bits, of the size and name of its picture; white is an edge.
    """

    edges: Path
    """The folder of the maps, thinned or not."""
    truth: str
    """BSDS500, or data of its layout: one map is read for each picture."""
    split: str | None = None
    """Of the truth: train, val or test; all pictures without it."""
    thresholds: int = 99
    """How many, spread evenly between 0 and 1."""
    max_distance: float = edge_scores.MAX_DISTANCE
    """How far two pixels of a pair may be apart, as a share of the picture's diagonal."""
    workers: int | None = None
    """Processes; one for each processor without it. The numbers do not depend on them."""
    json: bool = False
    """Print the result as JSON, with the best threshold of each picture."""


def main(argv: Sequence[str]) -> int:
    """Prints the numbers; a map that is missing is reported before any is read."""
    args = arguments.parse(Arguments, argv, prog="esam evaluate edges")
    if not 1 <= args.thresholds <= 999:
        raise ConfigError(f"--thresholds is {args.thresholds}, but must be 1 to 999")
    if not 0 < args.max_distance < 1:
        raise ConfigError(f"--max-distance is {args.max_distance}, but must be between 0 and 1")
    if args.workers is not None and args.workers < 1:
        raise ConfigError(f"--workers is {args.workers}, but must be at least 1")
    truth = sources.detect(args.truth)
    if not isinstance(truth, BsdsConfig):
        raise ConfigError(
            f"--truth {args.truth} is {truth.kind} data, which has no boundaries: name a folder of "
            "BSDS500"
        )
    result = edge_scores.of_maps(
        args.edges,
        dataclasses.replace(truth, split=args.split),
        levels=args.thresholds,
        max_distance=args.max_distance,
        workers=args.workers or parallel.available(),
    )
    print(json.dumps(result) if args.json else _for_people(result))
    return 0


def _for_people(result: Mapping[str, Any]) -> str:
    """The four numbers, and what they are of."""
    ods = ", ".join(f"{name} {result[name]:.4f}" for name in ("recall", "precision", "threshold"))
    ois = ", ".join(f"{name} {result[f'OIS_{name}']:.4f}" for name in ("recall", "precision"))
    return "\n".join(
        [
            f"ODS  {result['ODS']:.4f}  ({ods})",
            f"OIS  {result['OIS']:.4f}  ({ois})",
            f"AP   {result['AP']:.4f}",
            f"R50  {result['R50']:.4f}",
            f"{len(result['pictures'])} pictures: {result['protocol']}",
            f"data: {result['data']}; {result['seconds']} seconds",
        ]
    )
