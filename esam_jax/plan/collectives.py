"""Communication of a compiled program: what its text says is sent between devices, and how often.

XLA's own count leaves loops out (a scanned body counts once); here a loop multiplies by its trip
count, where the text states it.
"""

import dataclasses
from collections import Counter

from esam_jax.plan import hlo
from esam_jax.plan.hlo import Instruction

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Collective:
    """All operations of one kind in one update, seen from one device.

    `bytes` is the size of the complete buffers: what is summed for a reduction, what comes out of a
    gather. `loops_unknown` counts those in loops of unknown length, taken as one round.
    """

    kind: str
    count: int
    bytes: int
    loops_unknown: int = 0


def parse(text: str) -> tuple[Collective, ...]:
    """The collectives of one run of a program, from `compiled.as_text()`."""
    entry, computations = hlo.computations(text)
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    unknown: Counter[str] = Counter()

    def visit(name: str, times: int, certain: bool) -> None:
        body = computations[name]
        shapes = {each.name: each.shape for each in body}
        for each in body:
            if kind := _kind(each):
                counts[kind] += times
                sizes[kind] += times * _payload(each, shapes)
                unknown[kind] += 0 if certain else times
            elif not each.opcode.endswith(("-done", "-update")):
                trips = hlo.trips(each, computations)
                for called in each.called:
                    if called in computations:
                        visit(called, times * (trips or 1), certain and trips is not None)

    visit(entry, 1, True)
    return tuple(Collective(k, counts[k], sizes[k], unknown[k]) for k in KINDS if counts[k])


def _kind(instruction: Instruction) -> str | None:
    """The collective that begins here; the `-done` half of one says nothing new."""
    return next((k for k in KINDS if instruction.opcode in (k, f"{k}-start")), None)


def _payload(instruction: Instruction, shapes: dict[str, str]) -> int:
    given = sum(hlo.size(shapes.get(name, "")) for name in instruction.operands)
    if _kind(instruction) != "all-gather":
        return given
    # A -start returns its operands beside its results.
    started = instruction.opcode.endswith("-start")
    return hlo.size(instruction.shape) - (given if started else 0)
