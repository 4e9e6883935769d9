"""A run by its compiled program: kernels, communication and data, not a share of the peak."""

import dataclasses

from esam_jax.config import RunConfig
from esam_jax.machine.accelerators import Accelerator
from esam_jax.plan.collectives import Collective
from esam_jax.plan.compiled import Compiled
from esam_jax.plan.data_load import DataLoad
from esam_jax.plan.topologies import Topology

# What a ring sends of a buffer for each device, with n of them: this many times (n - 1) / n.
_PASSES = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1, "all-to-all": 1}


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Seconds of one update on paper (`paper.py`), and the run that they add up to.

    Communication counts as if no kernel hid it. `data_seconds` is what the loader's threads need
    for the examples of one update, each on a core like those of this machine; an update takes no
    less. Left out: caches, clocks, the host, saves and evaluations.
    """

    kernel_seconds: float
    communication_seconds: float
    data_seconds: float
    step_seconds: float
    examples_per_second: float
    hours: float
    dollars: float | None


def make(
    cfg: RunConfig,
    topology: Topology,
    compiled: Compiled,
    load: DataLoad,
    price: float | None,
) -> Schedule | None:
    """None where the program was not compiled, or the machine has no data sheet."""
    sheet = topology.accelerator
    if compiled.paper is None or sheet is None:
        return None
    hosts, gpus = topology.shape
    sent = sum(seconds(each, sheet, hosts, gpus) for each in compiled.collectives)
    read = load.seconds * cfg.batch / (load.hosts * load.threads)
    step = max(compiled.paper.seconds + sent, read)
    hours = cfg.steps * step / 3600
    return Schedule(
        kernel_seconds=compiled.paper.seconds,
        communication_seconds=sent,
        data_seconds=read,
        step_seconds=step,
        examples_per_second=cfg.batch / step,
        hours=hours,
        dollars=None if price is None else hours * price * topology.chips,
    )


def seconds(sent: Collective, sheet: Accelerator, hosts: int, devices: int) -> float:
    """Of a ring within each host, then of as many rings between hosts, each with its share.

    0 where the rates are not known.
    """
    if sheet.link is None or sheet.network is None:
        return 0.0
    passes = _PASSES.get(sent.kind)
    if passes is None:  # from each device to another one
        return sent.bytes / (sheet.network if hosts > 1 else sheet.link)
    inside = (devices - 1) / devices / sheet.link
    between = (hosts - 1) / hosts / devices / sheet.network
    return passes * sent.bytes * (inside + between)
