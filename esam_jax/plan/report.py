"""A plan: everything known of a run before a machine is rented, for programs and for people."""

import dataclasses
import math
from collections.abc import Callable
from importlib import metadata
from typing import Any, Literal

import jax

from esam_jax import tasks
from esam_jax.config import RunConfig
from esam_jax.plan import changes, compiled, costs, data_load, paper, schedule, topologies
from esam_jax.plan.changes import Change
from esam_jax.plan.compiled import Compiled
from esam_jax.plan.costs import Bill
from esam_jax.plan.data_load import DataLoad
from esam_jax.plan.schedule import Schedule
from esam_jax.plan.topologies import Topology
from esam_jax.tasks import trained
from esam_jax.words import counted

Changes = Literal["if-needed", "always", "never"]

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Plan:
    """One config on one topology."""

    config: str
    topology: Topology
    devices: int
    parameters: int
    trained_parameters: int
    compiled: Compiled
    bill: Bill
    data: DataLoad
    schedule: Schedule | None
    changes: list[Change]
    versions: dict[str, str]


def make(
    cfg: RunConfig,
    topology: Topology,
    *,
    mfu: float | None = None,
    price: float | None = None,
    try_changes: Changes = "if-needed",
    say: Callable[[str], None] = lambda _: None,
) -> Plan:
    """Compiles the step, and what could be changed where it does not fit; `say` hears of progress.

    ConfigError where config and topology do not agree, MissingError for a compiler that is not
    installed.
    """
    devices = topologies.devices(topology)
    used = len(devices)
    bill = costs.bill(cfg, topology, used, mfu=mfu, price=price)
    hosts = len({device.process_index for device in devices})
    load = data_load.measure(cfg.data, hosts, bill.examples_per_second)

    def compile_step(changed: RunConfig, what: str) -> Compiled:
        text = f"compiling {what} for {topology.name}"
        result = compiled.step(changed, topology, devices, lambda: say(text))
        jax.clear_caches()
        return result

    first = compile_step(cfg, cfg.name)
    wanted = try_changes == "always" or (try_changes == "if-needed" and first.fits is False)
    tried = changes.tried(cfg, used, compile_step, first.peak) if wanted else []
    task = tasks.build(cfg)
    count = trained.count(jax.eval_shape(task.init, jax.random.key(0)), task.trains)
    return Plan(
        config=cfg.name,
        topology=topology,
        devices=used,
        parameters=count.all,
        trained_parameters=count.trained,
        compiled=first,
        bill=bill,
        data=load,
        schedule=schedule.make(cfg, topology, first, load, bill.price),
        changes=tried,
        versions=versions(topology),
    )


def versions(topology: Topology) -> dict[str, str]:
    """Of what compiled: the figures change with it."""
    packages = ["jax", "jaxlib"]
    packages += {"tpu": ["libtpu"], "cuda": ["jax-cuda13-plugin"], "cpu": []}[topology.platform]
    return {name: metadata.version(name) for name in packages}


def for_programs(plan: Plan, *, kernels: bool = False) -> dict[str, Any]:
    """All of it as plain JSON; sizes in bytes, times in seconds and hours, money in dollars.

    `kernels`: with the kernels of the compiled program, in groups.
    """
    found = dataclasses.asdict(plan)
    if found["compiled"]["paper"] is not None and not kernels:
        del found["compiled"]["paper"]["groups"]
    found["topology"] |= {"chips": plan.topology.chips, "usable_bytes": plan.topology.usable_bytes}
    return found


def for_people(plan: Plan, *, kernels: bool = False) -> str:
    """The same on one screen; with `kernels` a table of those of the program."""
    result = plan.compiled
    lines = [
        f"{plan.config} on {plan.topology.name}: {counted(plan.devices, 'device')}",
        f"parameters   {_parameters(plan)}",
        f"memory       {_memory(result.peak, result.fits, plan.topology)}",
    ]
    lines += [f"{'' if i else 'collectives':<13}{line}" for i, line in enumerate(_traffic(result))]
    lines += [f"{'' if i else 'operations':<13}{line}" for i, line in enumerate(_work(plan.bill))]
    lines += _time(plan) + _on_paper(plan) + _data(plan.data)
    if plan.changes:
        width = max(len(change.options) for change in plan.changes)
        lines += ["", "what to change"]
        lines += [
            f"  {change.options:<{width}}  {_memory(change.peak, change.fits, plan.topology)}"
            for change in plan.changes
        ]
    if kernels:
        lines += ["", *_kernels(plan)]
    return "\n".join([*lines, "", ", ".join(f"{k} {v}" for k, v in plan.versions.items())])


def _parameters(plan: Plan) -> str:
    if plan.trained_parameters == plan.parameters:
        return f"{plan.parameters:,}, all trained"
    share = plan.trained_parameters / plan.parameters
    return f"{plan.parameters:,}, of which {plan.trained_parameters:,} ({share:.2%}) are trained"


def _memory(peak: int, fits: bool | None, topology: Topology) -> str:
    usable = topology.usable_bytes
    if fits is None or usable is None:
        return f"peak {_amount(peak)} a device (its memory is not known)"
    verdict = "fits" if fits else "DOES NOT FIT"
    of = _amount(usable)
    if topology.platform == "cuda":
        of += f" that JAX takes of {(topology.memory_bytes or 0) / _GIB:.0f}"
    return f"{verdict}: peak {_amount(peak)} of {of} a device"


def _amount(size: int) -> str:
    return f"{size / _GIB:.2f} GiB" if size >= _GIB else f"{size / 2**20:.1f} MiB"


def _traffic(result: Compiled) -> list[str]:
    if not result.collectives:
        return ["none" if result.fits is not False else "not counted"]
    return [
        f"{each.kind} x {each.count}: {each.bytes / _GIB:.3f} GiB"
        + (f" ({each.loops_unknown} in loops of unknown length)" if each.loops_unknown else "")
        for each in result.collectives
    ]


def _work(bill: Bill) -> list[str]:
    parts = [f"{name} {value / 1e12:.4g} TFLOP" for name, value in bill.flops.items()]
    return [*parts, f"together {sum(bill.flops.values()) / 1e12:.4g} TFLOP an update"]


def _on_paper(plan: Plan) -> list[str]:
    """The run by its compiled program."""
    written, found = plan.schedule, plan.compiled.paper
    if written is None or found is None:
        return []
    cost = "" if written.dollars is None else f", ${written.dollars:,.0f}"
    lines = [
        f"on paper     {written.kernel_seconds:.4g} s an update in {found.runs} kernels "
        f"({found.roofline_seconds:.4g} s at the full peaks)",
        f"             {written.communication_seconds:.4g} s of communication, if nothing hides it",
        f"             {written.examples_per_second:.0f} examples/s, {written.hours:.1f} hours in "
        f"all{cost}; not counted: caches, clocks, the host, saves",
    ]
    if written.step_seconds == written.data_seconds:
        lines.append(
            f"             the loader's {plan.data.threads} threads a host are the limit: "
            f"{written.data_seconds:.4g} s an update"
        )
    return lines


def _kernels(plan: Plan) -> list[str]:
    found = plan.compiled.paper
    if found is None:
        return [f"kernels      {plan.topology.name}: none, since only NVIDIA's have rates here"]
    counted = sum(plan.bill.flops.values()) / plan.devices
    lines = [
        f"kernels      {found.runs}, {found.flops / 1e12:.4g} TFLOP on each device "
        f"({counted / 1e12:.4g} counted above), {found.bytes / _GIB:.4g} GiB read and written",
        *paper.table(found),
    ]
    if found.loops_unknown:
        lines.append(f"  {found.loops_unknown} in loops of unknown length, taken as one round")
    return lines


def _data(load: DataLoad) -> list[str]:
    lines = [f"data         {load.seconds * 1e3:.3g} ms of one core an example ({load.timed})"]
    if load.cores is not None:
        lines.append(
            f"             {load.examples_per_second:.0f} examples/s on each of "
            f"{counted(load.hosts, 'host')} need {load.cores:.1f} cores like this machine's"
        )
        if load.cores > load.threads:
            lines.append(
                f"             the loader has {counted(load.threads, 'thread')}: "
                f"set --data.threads {math.ceil(load.cores)}"
            )
    return lines


def _time(plan: Plan) -> list[str]:
    bill = plan.bill
    if bill.floor_seconds is None or bill.hours is None:
        return ["time         unknown: there is no data sheet for this processor"]
    return [
        f"floor        {bill.floor_seconds:.4g} s an update at the full peak",
        f"at {bill.mfu:.0%} MFU   {bill.step_seconds:.4g} s an update, "
        f"{bill.examples_per_second:.0f} examples/s, {bill.hours:.1f} hours in all",
        f"cost         ${bill.dollars:,.0f} at ${bill.price:.2f} a chip and hour"
        f" ({plan.topology.chips} chips; the defaults are of {costs.PRICES_OF})",
    ]
