"""Time and money of a run: from operations, at a stated share of the peak and a stated price.

Neither default is a measurement of this project. Pass your own: `--mfu`, `--price`.
"""

import dataclasses
import math

from esam_jax.config import RunConfig
from esam_jax.errors import ConfigError
from esam_jax.plan.topologies import Topology
from esam_jax.tasks import operations

PRICES_OF = "2026-01"


@dataclasses.dataclass(frozen=True)
class Assumption:
    """What one kind of accelerator is taken to reach and to cost."""

    mfu: float  # share of the bfloat16 peak
    dollars: float  # a chip and hour, on demand


# MFU: what dense transformers reach in published runs, less for Hopper and v6e, whose peaks are
# harder to reach (A100 87 %, H100 80 % even in one large product).
# Dollars: for TPUs the vendor's list for the US (cloud.google.com/tpu/pricing), for GPUs about the
# middle of the prices of GPU clouds (pricegpu.pages.dev for A100 and H100, deploybase.ai for H200).
ASSUMPTIONS = {
    "a100-40": Assumption(0.50, 1.30),
    "a100": Assumption(0.50, 2.00),
    "h100": Assumption(0.45, 3.20),
    "h200": Assumption(0.45, 3.60),
    "v4": Assumption(0.50, 3.22),
    "v5e": Assumption(0.50, 1.20),
    "v5p": Assumption(0.50, 4.20),
    "v6e": Assumption(0.40, 2.70),
}


@dataclasses.dataclass(frozen=True)
class Bill:
    """A complete run on one machine. `floor_seconds` is of one update, at the full peak."""

    flops: dict[str, float]  # of one update, by part
    floor_seconds: float | None = None
    mfu: float | None = None
    step_seconds: float | None = None
    examples_per_second: float | None = None
    hours: float | None = None
    price: float | None = None  # dollars a chip and hour
    dollars: float | None = None


def bill(
    cfg: RunConfig,
    topology: Topology,
    devices: int,
    *,
    mfu: float | None = None,
    price: float | None = None,
) -> Bill:
    """What the recipe takes there; a CPU has no known peak, so only its operations are counted."""
    if mfu is not None and not 0 < mfu <= 1:
        raise ConfigError(f"--mfu is {mfu}, but must lie in (0, 1]: the share of the peak")
    if price is not None and not 0 <= price < math.inf:
        raise ConfigError(f"--price is {price}, but must not be negative: dollars a chip and hour")
    parts = {part.name: float(part.total * cfg.batch) for part in operations.parts(cfg)}
    sheet, assumed = topology.accelerator, ASSUMPTIONS.get(topology.kind)
    if sheet is None or assumed is None:
        return Bill(parts)
    mfu, price = mfu or assumed.mfu, assumed.dollars if price is None else price
    floor = sum(parts.values()) / (sheet.flops * devices)
    hours = cfg.steps * floor / mfu / 3600
    return Bill(
        flops=parts,
        floor_seconds=floor,
        mfu=mfu,
        step_seconds=floor / mfu,
        examples_per_second=cfg.batch * mfu / floor,
        hours=hours,
        price=price,
        dollars=hours * price * topology.chips,
    )
