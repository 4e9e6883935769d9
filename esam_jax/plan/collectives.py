"""Communication of a compiled program: what its text says is sent between devices, and how often.

XLA's own count leaves loops out (a scanned body counts once); here a loop multiplies by its trip
count, where the text states it.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_BITS = {"pred": 8, "bf16": 16, "f16": 16, "f8": 8}
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) .*\{$")
_INSTRUCTION = re.compile(r"(?:ROOT )?%?([\w.-]+) = (.+?) ([a-z][\w-]*)\((.*)$")
_ARRAY = re.compile(r"\b(pred|bf16|f8|[sufc]\d+)\w*\[([\d,]*)\]")
_CALLED = re.compile(
    r"(?:calls|body|condition|to_apply|true_computation|false_computation)=%?([\w.-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count"?\s*[:=]\s*\{\s*"?n"?\s*[:=]\s*"?(\d+)')


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


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    shape: str
    opcode: str
    rest: str

    @property
    def kind(self) -> str | None:
        """The collective that begins here; the `-done` half of one says nothing new."""
        return next((k for k in KINDS if self.opcode in (k, f"{k}-start")), None)


def parse(text: str) -> tuple[Collective, ...]:
    """The collectives of one run of a program, from `compiled.as_text()`."""
    entry, computations = _computations(text)
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    unknown: Counter[str] = Counter()

    def visit(name: str, times: int, certain: bool) -> None:
        body = computations[name]
        shapes = {each.name: each.shape for each in body}
        for each in body:
            if each.kind:
                counts[each.kind] += times
                sizes[each.kind] += times * _payload(each, shapes)
                unknown[each.kind] += 0 if certain else times
            elif not each.opcode.endswith(("-done", "-update")):
                trips = _trips(each, computations)
                for called in _called(each):
                    if called in computations:
                        visit(called, times * (trips or 1), certain and trips is not None)

    visit(entry, 1, True)
    return tuple(Collective(k, counts[k], sizes[k], unknown[k]) for k in KINDS if counts[k])


def _computations(text: str) -> tuple[str, dict[str, list[_Instruction]]]:
    """Name of the entry, and the instructions of every computation by its name."""
    entry, found, current = "", {}, []
    for line in text.splitlines():
        if not line.startswith(" "):
            if head := _COMPUTATION.match(line):
                current = found[head[2]] = []
                entry = head[2] if head[1] else entry
        elif instruction := _INSTRUCTION.match(line.strip()):
            current.append(_Instruction(*instruction.groups()))
    return entry, found


def _called(instruction: _Instruction) -> Iterator[str]:
    yield from _CALLED.findall(instruction.rest)
    for branches in _BRANCHES.findall(instruction.rest):
        yield from re.findall(r"[\w.-]+", branches)


def _trips(loop: _Instruction, computations: dict[str, list[_Instruction]]) -> int | None:
    """How often what an instruction calls runs; None for a loop of unknown length.

    A TPU's compiler writes no length down: its loops, which count from 0, run while i < length.
    """
    if loop.opcode != "while":
        return 1
    if found := _TRIPS.search(loop.rest):
        return int(found[1])
    named = re.search(r"condition=%?([\w.-]+)", loop.rest)
    condition = computations.get(named[1], []) if named else []
    lengths = {each.name: each.rest for each in condition if each.opcode == "constant"}
    if not condition or "direction=LT" not in condition[-1].rest:
        return None
    operands = re.findall(r"%([\w.-]+)", condition[-1].rest.split(")", 1)[0])
    length = re.match(r"(\d+)\)", lengths.get(operands[-1], ""))
    return int(length[1]) if length else None


def _payload(instruction: _Instruction, shapes: dict[str, str]) -> int:
    operands = instruction.rest.split(")", 1)[0]
    given = sum(_bytes(shapes.get(name, "")) for name in re.findall(r"%([\w.-]+)", operands))
    if instruction.kind != "all-gather":
        return given
    # A -start returns its operands beside its results.
    started = instruction.opcode.endswith("-start")
    return _bytes(instruction.shape) - (given if started else 0)


def _bytes(shape: str) -> int:
    """Of an array or a tuple, as HLO writes them: f32[4,8]{1,0}."""
    total = 0
    for dtype, sizes in _ARRAY.findall(shape):
        elements = 1
        for size in filter(None, sizes.split(",")):
            elements *= int(size)
        total += elements * _BITS.get(dtype, int(re.sub(r"\D", "", dtype) or 8)) // 8
    return total
