"""`esam plan CONFIG --topology T`: what a run will need, on a machine that need not be there."""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Sequence
from typing import Literal

from esam_jax.cli import arguments, run_keys
from esam_jax.errors import ConfigError

_DOES_NOT_FIT, _NOTHING_FITS = 3, 4  # exit codes
_USAGE = "esam plan CONFIG --topology T [--field.name value ...] [--json]"


@dataclasses.dataclass(frozen=True)
class Where:
    """Compiles the training step of CONFIG for a topology: memory, operations, time and money.

    No accelerator and no weights are needed. `esam plan CONFIG --help` lists
    every key of that config.
    """

    topology: str
    """v5e:4x4, v5p:4x4x4, 2*v6e:8x8 (two slices), h100:2x8 (hosts x GPUs), a100:8x8 or cpu:8."""
    mfu: float | None = None
    """Share of the peak rate that is expected; by default a usual one of the accelerator."""
    price: float | None = None
    """Dollars a chip and hour."""
    memory_gib: float | None = None
    """Memory of one device, where it is not what the data sheet says."""
    try_changes: Literal["if-needed", "always", "never"] = "if-needed"
    """Compile what could be changed: if-needed (when it does not fit), always or never."""
    kernels: bool = False
    """List the kernels of the compiled step and what each takes on paper (NVIDIA cards)."""
    json: bool = False
    """Print the plan as JSON."""


def main(argv: Sequence[str]) -> int:
    """Prints the plan.

    Exit code 0 when the step fits or the memory is not known, 3 when it does not fit, 4 when no
    change that was tried fits either.
    """
    name, config, rest = arguments.config_first(Where, argv, prog="esam plan", usage=_USAGE)
    prog = f"esam plan {name}"
    if "-h" in rest or "--help" in rest:
        run_keys.show(Where, config, rest, prog=prog)
    where, keys = arguments.parse_known(Where, rest, prog=prog)
    config = run_keys.parse(config, keys, prog=prog)
    _prepare(where.topology)
    from esam_jax.plan import report, topologies  # starts JAX

    topology = topologies.parse(where.topology)
    if where.memory_gib is not None:
        if not 0 < where.memory_gib < math.inf:
            raise ConfigError(f"--memory-gib is {where.memory_gib}, but must be above 0: GiB")
        size = int(where.memory_gib * 2**30)
        topology = dataclasses.replace(topology, memory_bytes=size)
    plan = report.make(
        config,
        topology,
        mfu=where.mfu,
        price=where.price,
        try_changes=where.try_changes,
        say=_say,
    )
    if where.json:
        print(json.dumps(report.for_programs(plan, kernels=where.kernels)))
    else:
        print(report.for_people(plan, kernels=where.kernels))
    if plan.compiled.fits is not False:
        return 0
    may_fit = where.try_changes == "never" or any(change.fits for change in plan.changes)
    return _DOES_NOT_FIT if may_fit else _NOTHING_FITS


def _prepare(topology: str) -> None:
    """Settings that JAX reads once, when it starts: no accelerator, and pretend devices."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    kind, _, count = topology.partition(":")
    flag = "--xla_force_host_platform_device_count"
    if kind == "cpu" and count.isdigit() and flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}={count}".strip()


def _say(message: str) -> None:
    print("esam:", message, file=sys.stderr, flush=True)
