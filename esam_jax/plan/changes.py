"""What to change when a step does not fit: each remedy is compiled, none is guessed."""

import dataclasses
from collections.abc import Callable, Iterator

from esam_jax.config import RunConfig
from esam_jax.errors import ConfigError
from esam_jax.plan.compiled import Compiled

Compile = Callable[[RunConfig, str], Compiled]  # the config, and the options that made it

_HOST = 8  # pieces of the parameters that stay close together on every machine known here


@dataclasses.dataclass(frozen=True)
class Change:
    """One remedy: the options to add to the command, and what the compiler then says."""

    options: str
    peak: int
    fits: bool | None


def tried(cfg: RunConfig, devices: int, compile_step: Compile) -> list[Change]:
    """Each remedy alone, then all together if none is enough.

    Accumulation doubles until it fits. A remedy that the config does not admit is left out.
    """
    found: list[Change] = []

    def fits(options: str, changed: RunConfig) -> bool:
        try:
            result = compile_step(changed, options)
        except ConfigError:  # a size that does not divide
            return False
        found.append(Change(options, result.peak, result.fits))
        return result.fits is True

    for options, changed in remedies(cfg, devices):
        fits(options, changed)
    for options, changed in accumulations(cfg, devices):
        if fits(options, changed):
            break
    if not any(change.fits for change in found):
        options, everything = together(cfg, devices)
        for more, changed in accumulations(everything, devices, first=cfg.accumulate):
            if fits(f"{options} {more}".strip(), changed):
                break
    return found


def remedies(cfg: RunConfig, devices: int) -> Iterator[tuple[str, RunConfig]]:
    """Recomputation; parameters in pieces; the teacher in pieces too."""
    if cfg.compute.remat == "none":
        compute = dataclasses.replace(cfg.compute, remat="blocks")
        yield "--compute.remat blocks", dataclasses.replace(cfg, compute=compute)
    pieces = _pieces(cfg, devices)
    if pieces > cfg.mesh.fsdp:
        mesh = dataclasses.replace(cfg.mesh, fsdp=pieces)
        cfg = dataclasses.replace(cfg, mesh=mesh)
        yield f"--mesh.fsdp {pieces}", cfg
    if cfg.mesh.fsdp > 1 and cfg.task.kind == "sami" and cfg.task.teacher.placement != "fsdp":
        options = f"--mesh.fsdp {cfg.mesh.fsdp} --task.teacher.placement fsdp"
        yield options, _teacher_in_pieces(cfg)


def accumulations(
    cfg: RunConfig, devices: int, first: int | None = None
) -> Iterator[tuple[str, RunConfig]]:
    """Twice as many micro-batches, and so on while every device has an example of each."""
    accumulate = 2 * cfg.accumulate if first is None else first
    while cfg.batch % (accumulate * devices // cfg.mesh.tensor) == 0:
        yield f"--accumulate {accumulate}", dataclasses.replace(cfg, accumulate=accumulate)
        accumulate *= 2


def together(cfg: RunConfig, devices: int) -> tuple[str, RunConfig]:
    """Every remedy but accumulation at once."""
    options = []
    for _ in range(3):
        option, changed = next(remedies(cfg, devices), ("", cfg))
        if not option or option in options:
            break
        options.append(option)
        cfg = changed
    return " ".join(options), cfg


def _pieces(cfg: RunConfig, devices: int) -> int:
    spare = devices // cfg.mesh.tensor if cfg.mesh.data is None else cfg.mesh.fsdp
    return max(n for n in range(1, min(spare, _HOST) + 1) if spare % n == 0)


def _teacher_in_pieces(cfg: RunConfig) -> RunConfig:
    assert cfg.task.kind == "sami"
    teacher = dataclasses.replace(cfg.task.teacher, placement="fsdp")
    return dataclasses.replace(cfg, task=dataclasses.replace(cfg.task, teacher=teacher))
