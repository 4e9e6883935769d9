"""What to change when a step does not fit: each remedy is compiled, none is guessed."""

import dataclasses
from collections.abc import Callable, Iterator

import jax

from esam_jax.config import RunConfig
from esam_jax.errors import ConfigError
from esam_jax.plan.compiled import Compiled

Compile = Callable[[RunConfig, str], Compiled]  # the config, and the options that made it

_HELPS = 0.95  # a remedy that leaves more than this share of the peak is not worth repeating
_HOST = 8  # pieces of the parameters that stay close together on every machine known here


@dataclasses.dataclass(frozen=True)
class Change:
    """One remedy: the options to add to the command, and what the compiler then says."""

    options: str
    peak: int
    fits: bool | None


def tried(cfg: RunConfig, devices: int, compile_step: Compile) -> list[Change]:
    """Each remedy alone, then all together if none is enough.

    Accumulation doubles until it fits, or no longer helps. A remedy that the config does not admit
    or the compiler is left out.
    """
    found: list[Change] = []

    def attempt(changed: RunConfig) -> Change | None:
        options = _options(cfg, changed)
        try:
            result = compile_step(changed, options)
        except (ConfigError, jax.errors.JaxRuntimeError):
            return None  # a size that does not divide, or that this compiler cannot do
        found.append(Change(options, result.peak, result.fits))
        return found[-1]

    def accumulate(configs: Iterator[RunConfig]) -> None:
        peak = float("inf")
        for changed in configs:
            change = attempt(changed)
            if change is None or change.fits or change.peak > _HELPS * peak:
                return
            peak = change.peak

    for changed in remedies(cfg, devices):
        attempt(changed)
    accumulate(accumulations(cfg, devices))
    if not any(change.fits for change in found):
        *_, everything = [cfg, *_one_on_another(cfg, devices)]
        attempt(everything)
        accumulate(accumulations(everything, devices))
    return found


def remedies(cfg: RunConfig, devices: int) -> Iterator[RunConfig]:
    """Recomputation; parameters in pieces; the teacher in pieces too."""
    if cfg.compute.remat == "none":
        compute = dataclasses.replace(cfg.compute, remat="blocks")
        yield dataclasses.replace(cfg, compute=compute)
    pieces = _pieces(cfg, devices)
    if pieces > cfg.mesh.fsdp:
        cfg = dataclasses.replace(cfg, mesh=dataclasses.replace(cfg.mesh, fsdp=pieces))
        yield cfg
    if cfg.mesh.fsdp > 1 and cfg.task.kind == "sami" and cfg.task.teacher.placement != "fsdp":
        teacher = dataclasses.replace(cfg.task.teacher, placement="fsdp")
        yield dataclasses.replace(cfg, task=dataclasses.replace(cfg.task, teacher=teacher))


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
    options = {
        "--compute.remat": lambda c: c.compute.remat,
        "--mesh.fsdp": lambda c: c.mesh.fsdp,
        "--task.teacher.placement": lambda c: c.task.kind == "sami" and c.task.teacher.placement,
        "--accumulate": lambda c: c.accumulate,
    }
    return " ".join(
        f"{name} {value(changed)}"
        for name, value in options.items()
        if value(changed) != value(cfg)
    )


def _pieces(cfg: RunConfig, devices: int) -> int:
    spare = devices // cfg.mesh.tensor if cfg.mesh.data is None else cfg.mesh.fsdp
    return max(n for n in range(1, min(spare, _HOST) + 1) if spare % n == 0)
