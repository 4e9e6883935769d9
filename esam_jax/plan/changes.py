"""What to change when a step does not fit: each remedy is compiled, none is guessed."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax

from esam_jax.config import RunConfig
from esam_jax.errors import ConfigError
from esam_jax.plan.compiled import Compiled

Compile = Callable[[RunConfig, str], Compiled]  # the config, and the options that made it

_HELPS = 0.95  # a remedy that leaves more than this share of the peak does not help
_HOST = 8  # pieces of the parameters that stay close together on every machine known here


@dataclasses.dataclass(frozen=True)
class Change:
    """One remedy: the options to add to the command, and what the compiler then says."""

    options: str
    peak: int
    fits: bool | None


def tried(cfg: RunConfig, devices: int, compile_step: Compile, peak: int) -> list[Change]:
    """Each remedy alone, then all together if none is enough; `peak` is that of `cfg` itself.

    Accumulation doubles until it fits, or no longer helps. A remedy that does not lower the peak is
    left out, and one that the config does not admit or the compiler.
    """
    found: list[Change] = []

    def attempt(changed: RunConfig) -> Change | None:
        options = _options(cfg, changed)
        try:
            result = compile_step(changed, options)
        except (ConfigError, jax.errors.JaxRuntimeError):
            return None  # a size that does not divide, or that this compiler cannot do
        change = Change(options, result.peak, result.fits)
        if change.peak < _HELPS * peak:
            found.append(change)
        return change

    def accumulate(configs: Iterator[RunConfig]) -> None:
        before = float("inf")
        for changed in configs:
            change = attempt(changed)
            if change is None or change.fits or change.peak > _HELPS * before:
                return
            before = change.peak

    for changed in remedies(cfg, devices):
        attempt(changed)
    accumulate(accumulations(cfg, devices))
    if not any(change.fits for change in found):
        *_, everything = [cfg, *_one_on_another(cfg, devices)]
        attempt(everything)
        accumulate(accumulations(everything, devices))
    return found


def remedies(cfg: RunConfig, devices: int) -> Iterator[RunConfig]:
    """Recomputation; parameters in pieces; frozen networks in pieces too."""
    if cfg.compute.remat == "none":
        compute = dataclasses.replace(cfg.compute, remat="blocks")
        yield dataclasses.replace(cfg, compute=compute)
    pieces = _pieces(cfg, devices)
    if pieces > cfg.mesh.fsdp:
        cfg = dataclasses.replace(cfg, mesh=dataclasses.replace(cfg.mesh, fsdp=pieces))
        yield cfg
    if cfg.mesh.fsdp > 1:
        yield from _in_pieces(cfg)


def _in_pieces(cfg: RunConfig) -> Iterator[RunConfig]:
    """Every frozen network of the task in pieces, one more at a time."""
    for path in _placements(cfg):
        if _value(cfg, path) != "fsdp":
            cfg = _with_value(cfg, path, "fsdp")
            yield cfg


def accumulations(cfg: RunConfig, devices: int) -> Iterator[RunConfig]:
    """Twice as many micro-batches, and so on while every device has an example of each."""
    accumulate = 2 * cfg.accumulate
    while cfg.batch % (accumulate * devices // cfg.mesh.tensor) == 0:
        yield dataclasses.replace(cfg, accumulate=accumulate)
        accumulate *= 2


def _one_on_another(cfg: RunConfig, devices: int) -> Iterator[RunConfig]:
    while (changed := next(remedies(cfg, devices), None)) is not None:
        yield (cfg := changed)


def _options(cfg: RunConfig, changed: RunConfig) -> str:
    """What to add to the command that gave `cfg`."""
    paths = ("compute.remat", "mesh.fsdp", *_placements(cfg), "accumulate")
    return " ".join(
        f"--{path.replace('_', '-')} {_value(changed, path)}"
        for path in paths
        if _value(changed, path) != _value(cfg, path)
    )


def _placements(node: Any, path: str = "task") -> list[str]:
    """Where the config of the task says how a frozen network is placed: fields `placement`."""
    node = _value(node, path) if path == "task" else node
    found = []
    for field in dataclasses.fields(node):
        value, inside = getattr(node, field.name), f"{path}.{field.name}"
        if field.name == "placement":
            found.append(inside)
        elif dataclasses.is_dataclass(value):
            found += _placements(value, inside)
    return found


def _value(node: Any, path: str) -> Any:
    return functools.reduce(getattr, path.split("."), node)


def _with_value(node: Any, path: str, value: Any) -> Any:
    """The config with another value at a path of field names."""
    name, _, rest = path.partition(".")
    inside = _with_value(getattr(node, name), rest, value) if rest else value
    return dataclasses.replace(node, **{name: inside})


def _pieces(cfg: RunConfig, devices: int) -> int:
    spare = devices // cfg.mesh.tensor if cfg.mesh.data is None else cfg.mesh.fsdp
    return max(n for n in range(1, min(spare, _HOST) + 1) if spare % n == 0)
