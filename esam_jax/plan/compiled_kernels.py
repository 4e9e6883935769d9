"""The kernels of a compiled program: what each computes and moves, read in the program's text.

Every instruction that is launched by itself is one kernel: a product of the vendor's library, a
fused attention, a convolution, a fusion of whatever else, a copy. Its operations are those of the
matrix products in it (one multiplication with its addition counts two), its bytes what it reads and
writes, each once. Loops multiply by their trip counts.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal

from esam_jax.plan import collectives, hlo
from esam_jax.plan.hlo import Array, Computations, Instruction

Kind = Literal["product", "attention", "convolution", "pass"]

# What launches nothing: it names, cuts or joins what is there.
_NOTHING = frozenset(
    (
        *("parameter", "constant", "iota", "broadcast", "bitcast", "tuple", "get-tuple-element"),
        *("after-all", "add-dependency", "opt-barrier", "domain", "partition-id", "replica-id"),
    )
)
# What writes a part of its first operand in place, and which operand is that part.
_IN_PLACE = {"dynamic-update-slice": 1, "scatter": 2}
_INSIDE = ("while", "conditional", "call")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_OPERATION = re.compile(r'op_name="([^"]*)"')
_CONTRACTED = re.compile(r"lhs_contracting_(?:dims=\{|dimensions\":\[)([\d,\"]*)")
_FULL_PRECISION = re.compile(r"operand_precision(?:=\{|\":\[)\"?highest", re.IGNORECASE)
_BODY = re.compile(r"body=%?([\w.-]+)")
_LABELS = re.compile(r"dim_labels=\w+_(\w+)->\w+")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One kernel, and how often it runs; the figures are of one run.

    `dtype` is that of the operands of its products ("f32" is TF32 unless `exact`), `exponentials`
    those of a fused attention. `where` is the part of the network that it comes from.
    """

    name: str
    kind: Kind
    where: str
    runs: int = 1
    flops: int = 0
    exponentials: int = 0
    bytes: int = 0
    dtype: str = ""
    exact: bool = False
    loops_unknown: bool = False


def parse(text: str, trips: Mapping[str, int] = MappingProxyType({})) -> list[Kernel]:
    """The kernels of one run of a program, in the order of its text; communication is left out.

    trips: how often loops run whose length is data, by the scope in which the program names them.
    """
    entry, computations = hlo.computations(text)
    found: list[Kernel] = []

    def visit(name: str, times: int, certain: bool) -> None:
        shapes = {each.name: each for each in computations[name]}
        for each in computations[name]:
            if each.opcode in _INSIDE or each.opcode.startswith("async-start"):
                length = hlo.trips(each, computations)
                length = _assumed(each, trips) if length is None else length
                for called in _run(each, computations):
                    visit(called, times * (length or 1), certain and length is not None)
            elif _launches(each):
                kernel = _kernel(each, shapes, computations)
                found.append(dataclasses.replace(kernel, runs=times, loops_unknown=not certain))

    visit(entry, 1, True)
    return found


def _assumed(loop: Instruction, trips: Mapping[str, int]) -> int | None:
    """The length of a loop by the innermost scope around it that has one."""
    operation = _OPERATION.search(loop.rest)
    scopes = operation[1].split("/") if operation else []
    return next((trips[scope] for scope in reversed(scopes) if scope in trips), None)


def _run(instruction: Instruction, computations: Computations) -> Iterator[str]:
    """What an instruction runs; of branches the longest text, for one of them runs.

    The condition of a loop is left out: one of known length is counted by the host.
    """
    called = [name for name in instruction.called if name in computations]
    if instruction.opcode == "while":
        called = _BODY.findall(instruction.rest)
    if instruction.opcode == "conditional":
        called = sorted(called, key=lambda name: len(computations[name]))[-1:]
    yield from called


def _launches(instruction: Instruction) -> bool:
    sent = instruction.opcode.removesuffix("-start").removesuffix("-done") in collectives.KINDS
    return not (instruction.opcode in _NOTHING or sent or instruction.opcode.endswith("-done"))


def _kernel(
    instruction: Instruction, shapes: dict[str, Instruction], computations: Computations
) -> Kernel:
    given = [shapes[name] for name in instruction.operands if name in shapes]
    target = _TARGET.search(instruction.rest)
    operation = _OPERATION.search(instruction.rest)
    kernel = Kernel(
        name=instruction.name,
        kind="pass",
        where=operation[1] if operation else "",
        bytes=sum(hlo.size(each.shape) for each in (*given, instruction)),
    )
    if instruction.opcode == "fusion":
        return _fusion(kernel, instruction, given, computations)
    if target and "fmha" in target[1]:
        return _attention(kernel, instruction, given, backward="Backward" in target[1])
    if target and target[1].startswith("__cublas"):
        return _library_product(kernel, instruction, given)
    if target and "conv" in target[1]:
        work = _convolution(instruction, given)
        moved = kernel.bytes - _workspace(instruction)
        return dataclasses.replace(
            kernel, kind="convolution", flops=work, bytes=moved, dtype=_dtype(given)
        )
    if instruction.opcode in ("dot", "convolution"):
        return _with_product(kernel, instruction, given)
    return kernel


def _library_product(kernel: Kernel, instruction: Instruction, given: list[Instruction]) -> Kernel:
    """Result, and a workspace that is no traffic; a residual that is added is an operand."""
    out = instruction.arrays[0]
    return dataclasses.replace(
        kernel,
        kind="product",
        flops=2 * out.elements * _contracted(instruction, given),
        bytes=kernel.bytes - _workspace(instruction),
        dtype=_dtype(given),
        exact=bool(_FULL_PRECISION.search(instruction.rest)),
    )


def _attention(
    kernel: Kernel, instruction: Instruction, given: list[Instruction], *, backward: bool
) -> Kernel:
    """Forward two products of all queries with all keys, backward five."""
    (batch, queries, heads, width), (_, keys, *_) = (each.arrays[0].sizes for each in given[:2])
    pairs = batch * heads * queries * keys
    return dataclasses.replace(
        kernel,
        kind="attention",
        flops=(10 if backward else 4) * pairs * width,
        exponentials=pairs,
        bytes=kernel.bytes - _workspace(instruction),
        dtype=_dtype(given),
    )


def _fusion(
    kernel: Kernel, instruction: Instruction, given: list[Instruction], computations: Computations
) -> Kernel:
    """Bytes: of an operand that is only cut, the pieces; of one that is written in place, those."""
    body = next((computations[name] for name in instruction.called if name in computations), [])
    inside = {each.name: each for each in body}
    parameters = {
        int(each.rest.split(")", 1)[0]): each for each in body if each.opcode == "parameter"
    }
    read = sum(
        _read(parameters[i], body) if i in parameters else hlo.size(each.shape)
        for i, each in enumerate(given)
    )
    written = _written(body[-1], inside) if body else hlo.size(instruction.shape)
    kernel = dataclasses.replace(kernel, bytes=read + written, where=kernel.where or _where(body))
    for each in body:
        if each.opcode in ("dot", "convolution"):
            operands = [inside[name] for name in each.operands if name in inside]
            kernel = _with_product(kernel, each, operands)
    return kernel


def _where(body: list[Instruction]) -> str:
    """Of the last instruction in a fusion that says so; the fusion itself need not."""
    found = (_OPERATION.search(each.rest) for each in reversed(body))
    return next((operation[1] for operation in found if operation), "")


def _with_product(kernel: Kernel, product: Instruction, given: list[Instruction]) -> Kernel:
    if product.opcode == "dot":
        work = 2 * product.arrays[0].elements * _contracted(product, given)
    else:
        work = _convolution(product, given)
    return dataclasses.replace(
        kernel,
        kind="product",
        flops=kernel.flops + work,
        dtype=_dtype(given),
        exact=bool(_FULL_PRECISION.search(product.rest)),
    )


def _read(parameter: Instruction, body: list[Instruction]) -> int:
    """Bytes of a parameter that a fusion reads."""
    same = {parameter.name}
    total = 0
    for each in body:
        if not same & set(each.operands):
            continue
        if each.opcode == "bitcast":
            same.add(each.name)
        elif each.opcode in ("dynamic-slice", "slice", "gather") and each.operands[0] in same:
            total += hlo.size(each.shape)
        elif each.opcode not in _IN_PLACE or each.operands[0] not in same:
            return hlo.size(parameter.shape)
    return min(total, hlo.size(parameter.shape))


def _written(root: Instruction, inside: dict[str, Instruction]) -> int:
    if root.opcode == "tuple":
        return sum(_written(inside[name], inside) for name in root.operands if name in inside)
    if root.opcode == "bitcast" and root.operands[0] in inside:
        return _written(inside[root.operands[0]], inside)
    if root.opcode in _IN_PLACE and root.operands[_IN_PLACE[root.opcode]] in inside:
        return hlo.size(inside[root.operands[_IN_PLACE[root.opcode]]].shape)
    return hlo.size(root.shape)


def _contracted(product: Instruction, given: list[Instruction]) -> int:
    axes = _CONTRACTED.search(product.rest)
    left = given[0].arrays[0].sizes
    return math.prod(left[int(axis)] for axis in re.findall(r"\d+", axes[1])) if axes else 1


def _convolution(instruction: Instruction, given: list[Instruction]) -> int:
    """Every result takes the window times the channels that one of its kernels reads."""
    labels, kernel = _LABELS.search(instruction.rest), given[1].arrays[0]
    per_result = kernel.elements
    if labels:
        per_result //= kernel.sizes[labels[1].index("o")]
    return 2 * instruction.arrays[0].elements * per_result


def _workspace(instruction: Instruction) -> int:
    scratch: list[Array] = instruction.arrays[1:] if "custom_call" in instruction.rest else []
    return sum(each.bytes for each in scratch if each.dtype in ("s8", "u8"))


def _dtype(given: list[Instruction]) -> str:
    return given[0].arrays[0].dtype if given and given[0].arrays else ""
