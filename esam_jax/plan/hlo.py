"""The text of a compiled program, as `compiled.as_text()` gives it: computations, loops, sizes."""

import dataclasses
import math
import re
from collections.abc import Iterator

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
class Array:
    """One array of a shape: f32[4,8]."""

    dtype: str
    sizes: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.sizes)

    @property
    def bytes(self) -> int:
        bits = _BITS.get(self.dtype, int(re.sub(r"\D", "", self.dtype) or 8))
        return self.elements * bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """`name = shape opcode(operands), attributes`; `rest` is what follows the parenthesis."""

    name: str
    shape: str
    opcode: str
    rest: str

    @property
    def operands(self) -> list[str]:
        """The names of its operands."""
        return re.findall(r"%([\w.-]+)", self.rest.split(")", 1)[0])

    @property
    def arrays(self) -> list[Array]:
        """What it gives: one array, or those of a tuple."""
        return arrays(self.shape)

    @property
    def called(self) -> Iterator[str]:
        """The computations that it runs."""
        yield from _CALLED.findall(self.rest)
        for branches in _BRANCHES.findall(self.rest):
            yield from re.findall(r"[\w.-]+", branches)


Computations = dict[str, list[Instruction]]


def computations(text: str) -> tuple[str, Computations]:
    """Name of the entry, and the instructions of every computation by its name."""
    entry, found, current = "", {}, []
    for line in text.splitlines():
        if not line.startswith(" "):
            if head := _COMPUTATION.match(line):
                current = found[head[2]] = []
                entry = head[2] if head[1] else entry
        elif instruction := _INSTRUCTION.match(line.strip()):
            current.append(Instruction(*instruction.groups()))
    return entry, found


def trips(loop: Instruction, computations: Computations) -> int | None:
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
    length = re.match(r"(\d+)\)", lengths.get(condition[-1].operands[-1], ""))
    return int(length[1]) if length else None


def arrays(shape: str) -> list[Array]:
    """Of an array or a tuple, as the text writes them: f32[4,8]{1,0}."""
    return [
        Array(dtype, tuple(int(size) for size in sizes.split(",") if size))
        for dtype, sizes in _ARRAY.findall(shape)
    ]


def size(shape: str) -> int:
    """Bytes of an array or a tuple."""
    return sum(array.bytes for array in arrays(shape))
