"""`esam train ... --preflight`: whether a run would go well here; and in short at every start.

Devices, sums over them, the disk, one update, and data against what an update needs. Every process
measures what is its own, and all of them hear of every fault. Nothing stays in the run's folder.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import math
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from esam_jax.config import RunConfig
from esam_jax.data import loader
from esam_jax.errors import ConfigError, EsamError, one_line
from esam_jax.machine import memory, out_of_memory
from esam_jax.processes import consistency, coordinator
from esam_jax.processes.watchdog import Watchdog
from esam_jax.tasks import trained
from esam_jax.train import frozen as frozen_weights
from esam_jax.train import probes, scalars, start
from esam_jax.train import state as states
from esam_jax.train.checkpoint import manager
from esam_jax.train.start import Ready
from esam_jax.train.step import jit_step
from esam_jax.typing import Batch

EVENT = "preflight"
DATA_MARGIN = 0.9  # data this much slower than the updates is a fault: both are measured briefly
_DATA_SECONDS, _DATA_BATCHES = 10.0, 50  # whichever comes first
_STEPS = 3  # timed, after the one that compiles
_BRIEF_BYTES = 4 << 20  # of each probe at every start
_MOST_BYTES = 256 << 20  # of a probe of the disk, or of a sum


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """A row of the table. `fault` says what is wrong and what helps, or is None."""

    name: str
    found: str = ""
    needed: str = ""
    fault: str | None = None
    numbers: Mapping[str, int | float] = dataclasses.field(default_factory=dict)


class _FaultError(Exception):
    """What is wrong on this host, in a sentence."""


def run(
    cfg: RunConfig, workdir: Path, *, devices: int | None, resume_with: Collection[str] = ()
) -> list[Check]:
    """The checks, the same on every process; `devices` is how many are expected, if that is known.

    EsamError for what a start of the run would refuse, too.
    """
    cfg, source = start.fitted(cfg, workdir)
    where = start.standing(cfg, workdir, None, resume_with)
    ready = start.check(cfg, workdir, where.first_step, source)
    with (
        tempfile.TemporaryDirectory() as stacks,  # RUN is not touched, even if a check hangs
        Watchdog(cfg.guard.hang_seconds, Path(stacks)),
    ):
        # For checks of seconds that hosts begin together: no time to compile or to read data.
        brisk = functools.partial(Watchdog, cfg.guard.hang_seconds, Path(stacks), slow_seconds=0.0)
        state_bytes = _bytes(ready.template)
        gradient_bytes = _bytes(trained.select(ready.template.params, ready.task.trains))
        with brisk():
            checks = [
                _devices(ready.mesh, devices),
                _all_reduce(ready.mesh, min(gradient_bytes, _MOST_BYTES), gradient_bytes),
            ]
        data, batch = _data(cfg, ready)
        if batch is None:
            step = Check(name="step", found="not tried: there is no batch")
        else:
            step = _step(cfg, ready, batch)
        seconds = step.numbers.get("seconds", math.nan)
        with brisk():
            save = _disk(cfg, workdir, ready, state_bytes, seconds, where.first_step)
        return [*checks, save, step, _against(data, seconds)]


def brief(mesh: Mesh, workdir: Path) -> dict[str, int | float]:
    """What is tried at every start, for the log: sums over the devices, and the disk.

    TrainingError if a device does not hold the right sum. A disk that cannot be written has no
    number: the first save reports it.
    """
    found: dict[str, int | float] = {"devices": mesh.devices.size}
    seconds = probes.all_reduce(mesh, _BRIEF_BYTES)
    if seconds is not None:
        rate = probes.bus_rate(_BRIEF_BYTES, seconds, mesh.devices.size)
        found["all_reduce_bytes_per_second"] = float(f"{rate:.4g}")
    if jax.process_index() == 0:  # whose numbers are logged
        with contextlib.suppress(OSError):
            rate = probes.disk_rate(workdir, _BRIEF_BYTES)
            found["disk_bytes_per_second"] = float(f"{rate:.4g}")
    return found


def in_words(found: Mapping[str, int | float]) -> str:
    """`brief`'s numbers, as a line for people."""
    names = {"all_reduce_bytes_per_second": "all-reduce", "disk_bytes_per_second": "disk"}
    rates = [f"{names[key]} {_rate(value)}" for key, value in found.items() if key in names]
    return ", ".join([f"{found['devices']:.0f} device(s)", *rates])


def table(checks: list[Check]) -> str:
    """For people; `require` says what is wrong."""
    rows = [("check", "found", "needed"), *((x.name, x.found, x.needed) for x in checks)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in rows)


def require(checks: list[Check]) -> None:
    """ConfigError with every fault."""
    faults = [f"{each.name}: {each.fault}" for each in checks if each.fault]
    if faults:
        raise ConfigError(f"the preflight failed: {'; '.join(faults)}")


# ----------------------------------------------------------------------------------- the checks


def _devices(mesh: Mesh, expected: int | None) -> Check:
    local = jax.local_devices()
    here = {"count": len(local), "kind": local[0].device_kind}
    hosts = _by_host("devices", lambda: here)
    fault = None
    first = next(iter(hosts))  # the same on every process, as the whole table is
    if different := [host for host, seen in hosts.items() if seen != hosts[first]]:
        seen = "; ".join(f"{host} has {_device_words(hosts[host])}" for host in different[:4])
        fault = (
            f"hosts have different devices: {seen}, but {first} {_device_words(hosts[first])}: "
            "repair those hosts or leave them out"
        )
    if expected not in (None, mesh.devices.size):
        fault = f"{mesh.devices.size} are used, but {expected} should be: change the mesh"
    return Check(
        name="devices",
        found=f"{mesh.devices.size} x {hosts[first]['kind']} in {jax.process_count()} process(es)",
        needed=str(expected) if expected else "not stated: --peers.devices N",
        fault=fault,
        numbers={"devices": mesh.devices.size},
    )


def _all_reduce(mesh: Mesh, size: int, gradients: int) -> Check:
    name, found = "all-reduce", _tried("all-reduce", lambda: probes.all_reduce(mesh, size))
    if isinstance(found, Check):
        return found
    seconds = max((each for each in found.values() if each), default=None)
    if seconds is None:
        return Check(name=name, found="one device: there is nothing to reduce")
    rate = probes.bus_rate(size, seconds, mesh.devices.size)
    return Check(
        name=name,
        found=f"{_rate(rate)} through each device, sums right",
        needed=f"{_size(gradients)} of gradients: {_seconds(seconds * gradients / size)} an update",
        numbers={"bytes_per_second": rate, "gradient_seconds": seconds * gradients / size},
    )


def _disk(
    cfg: RunConfig, workdir: Path, ready: Ready, size: int, step: float, first_step: int
) -> Check:
    share = size // jax.process_count()
    found = _tried("disk", lambda: probes.disk_rate(workdir, min(share, _MOST_BYTES)))
    if isinstance(found, Check):
        return found
    host, rate = min(found.items(), key=lambda each: each[1])
    save, between = share / rate, cfg.save.every_steps * step
    fault = manager.lack(probes.existing(workdir), ready.template, 1 if first_step else 2)
    if fault is None and save > between:
        fault = (
            f"a save takes {_seconds(save)} on {host}, but one is due every {_seconds(between)}: "
            "raise --save.every-steps, or name a faster disk with --workdir"
        )
    return Check(
        name="disk",
        found=f"{_rate(rate)}{_slowest(host)}, {_seconds(save)} a save of {_size(size)}",
        needed="" if math.isnan(between) else f"a save every {_seconds(between)}",
        fault=fault,
        numbers={"bytes_per_second": rate, "save_seconds": save},
    )


def _data(cfg: RunConfig, ready: Ready) -> tuple[Check, Batch | None]:
    """Batches a second of the slowest host, and one batch if every host has one."""
    kept: list[Batch] = []

    def measure() -> float:
        with contextlib.closing(
            loader.stream(ready.source, cfg.data, seed=cfg.seed, batch=cfg.batch, mesh=ready.mesh)
        ) as batches:
            kept.append(next(batches))
            begin = time.monotonic()
            for number in itertools.count(1):
                next(batches)
                took = time.monotonic() - begin
                if took > _DATA_SECONDS or number == _DATA_BATCHES:
                    return number / took
            raise AssertionError

    found = _tried("data", measure)
    if isinstance(found, Check):
        return found, None
    host, rate = min(found.items(), key=lambda each: each[1])
    text = f"{rate:.3g} batches/s{_slowest(host)}"
    return Check(name="data", found=text, numbers={"batches_per_second": rate}), kept[0]


def _step(cfg: RunConfig, ready: Ready, batch: Batch) -> Check:
    task, mesh = ready.task, ready.mesh

    def measure() -> tuple[float, float]:
        key = states.init_key(cfg.seed)
        state = states.create(task, ready.optimiser, key, mesh, ready.start.params)
        frozen = frozen_weights.place(task, ready.weights, mesh)
        frozen_weights.try_out(task, frozen, mesh)
        step_fn = consistency.agreeing(
            jit_step(
                task,
                ready.optimiser,
                mesh,
                ready.template,
                frozen,
                seed=cfg.seed,
                accumulate=cfg.accumulate,
                guarded=cfg.guard,
                deterministic=cfg.compute.deterministic,
            )
        )
        state, metrics = step_fn(state, frozen, batch)  # compiles
        loss, durations = scalars.fetch(metrics)["loss"], []
        for _ in range(_STEPS):
            begin = time.monotonic()
            state, metrics = step_fn(state, frozen, batch)
            jax.block_until_ready((state, metrics))
            durations.append(time.monotonic() - begin)
        if not math.isfinite(loss):
            raise _FaultError(
                f"the loss of the first update is {loss}: look at the data and weights"
            )
        return statistics.median(durations), loss

    found = _tried("step", measure)
    if isinstance(found, Check):
        return found
    seconds, loss = max(found.values())
    used = memory.device_bytes().get("device_peak_bytes")
    return Check(
        name="step",
        found=f"{_seconds(seconds)}, {cfg.batch / seconds:.4g} examples/s, loss {loss:.4g}"
        + (f", {_size(used)} of a device at most" if used else ""),
        numbers={"seconds": seconds, "loss": loss},
    )


def _against(data: Check, step: float) -> Check:
    """The row of the data, once it is known what an update needs."""
    rate = data.numbers.get("batches_per_second")
    if rate is None or math.isnan(step):
        return data
    fault = None
    if rate < DATA_MARGIN / step:
        fault = (
            f"{rate:.3g} batches/s come, but the updates take {1 / step:.3g}, so that devices wait "
            f"{1 - rate * step:.0%} of the time: give each host more cores with --data.threads, "
            "smaller pictures or fewer masks, or a faster disk for the data"
        )
    return dataclasses.replace(data, needed=f"{1 / step:.3g} batches/s", fault=fault)


# ------------------------------------------------------------------------------- several hosts


def _tried(name: str, measure: Callable[[], Any]) -> dict[str, Any] | Check:
    """What every host measures, by its name, or the row that says what went wrong on which."""

    def attempt() -> Any:
        try:
            with out_of_memory.advice(start.LESS_MEMORY):
                return {"value": measure()}
        except (EsamError, OSError, _FaultError) as fault:
            return {"fault": str(fault) or one_line(fault)}

    hosts = _by_host(name, attempt)
    faults = {host: found["fault"] for host, found in hosts.items() if "fault" in found}
    if faults:
        host, fault = next(iter(faults.items()))
        others = f" (and {len(faults) - 1} other hosts)" if len(faults) > 1 else ""
        return Check(name=name, found="failed", fault=f"{fault}{_slowest(host)}{others}")
    return {host: found["value"] for host, found in hosts.items()}


def _by_host(name: str, make: Callable[[], Any]) -> dict[str, Any]:
    """What every host makes, which it must do in the same order as all others."""
    text = json.dumps([socket.gethostname(), make()])
    found = coordinator.gather(f"the preflight of {name}", text)
    pairs = (json.loads(each) for each in found)
    return {f"host {number} ({host})": value for number, (host, value) in enumerate(pairs)}


def _slowest(host: str) -> str:
    return f" on {host}" if jax.process_count() > 1 else ""


# ------------------------------------------------------------------------------------ in words


def _device_words(seen: Mapping[str, Any]) -> str:
    return f"{seen['count']} x {seen['kind']}"


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _rate(value: int | float) -> str:
    return f"{_size(value)}/s"


def _size(value: int | float) -> str:
    return f"{value / 1e9:.3g} GB" if value >= 1e9 else f"{value / 1e6:.3g} MB"


def _seconds(value: int | float) -> str:
    return f"{value:.3g} s" if value >= 0.1 else f"{value * 1e3:.3g} ms"
