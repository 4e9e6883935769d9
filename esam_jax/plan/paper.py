"""A compiled program on paper: what each kernel takes at the rates of a card, and the sum.

*Roofline*: the larger of a kernel's work at the peak rate and its traffic at the peak bandwidth.
*Derated*: the same at the shares of the peaks that libraries reach, and no kernel below the time
of a launch. Kernels run one after the other; communication is added as if nothing hid it. Not
seen: how well the caches serve, clocks that fall under load, the host.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence

from esam_jax.machine.accelerators import Accelerator
from esam_jax.plan.compiled_kernels import Kernel

# What large products of cuBLAS, streaming kernels and cuDNN's attention reach of the peaks, and the
# shortest kernel in a stream of them.
PRODUCTS, BANDWIDTH, ATTENTION, LAUNCH_SECONDS = 0.80, 0.85, 0.83, 2e-6

_NOISE = re.compile(
    r"jit\(|jvp\(\)|while|body|cond$|closed_call|eval_jaxpr|checkpoint|remat|rematted_computation|branch"
)
_WRAPPED = re.compile(r"^(?:transpose|jvp|vmap)\((.*)\)$")


@dataclasses.dataclass(frozen=True)
class Group:
    """All kernels of one part of the network, one kind and one dtype; figures of all their runs."""

    where: str
    kind: str
    dtype: str
    runs: int
    flops: int
    bytes: int
    roofline_seconds: float
    seconds: float  # derated


@dataclasses.dataclass(frozen=True)
class Paper:
    """One run of a program on one device; `groups` begin with what takes longest."""

    runs: int
    flops: int
    bytes: int
    roofline_seconds: float
    seconds: float  # derated, without communication
    groups: tuple[Group, ...]
    loops_unknown: int = 0


def write(kernels: Iterable[Kernel], sheet: Accelerator) -> Paper | None:
    """None where the data sheet has no rates for every kind of number: of a TPU."""
    if sheet.float32 is None or sheet.exponentials is None:
        return None
    kernels = list(kernels)
    found: dict[tuple[str, str, str], list[Kernel]] = {}
    for kernel in kernels:
        key = (place(kernel.where), kernel.kind, kernel.dtype)
        found.setdefault(key, []).append(kernel)
    groups = [_group(*key, each, sheet) for key, each in found.items()]
    groups.sort(key=lambda group: -group.seconds)
    return Paper(
        runs=sum(group.runs for group in groups),
        flops=sum(group.flops for group in groups),
        bytes=sum(group.bytes for group in groups),
        roofline_seconds=sum(group.roofline_seconds for group in groups),
        seconds=sum(group.seconds for group in groups),
        groups=tuple(groups),
        loops_unknown=sum(kernel.loops_unknown for kernel in kernels),
    )


def table(paper: Paper, rows: int = 20) -> list[str]:
    """Lines for people: the groups that take longest, and what is left."""
    shown = paper.groups[:rows]
    width = max((len(group.where) for group in shown), default=0)
    lines = [
        f"  {'ms':>8}  {'share':>5}  {'runs':>5}  {'kind':<11}  {'GFLOP':>9}  {'MB':>9}  {'of':<4}"
        f"  where"
    ]
    lines += [
        f"  {group.seconds * 1e3:8.3f}  {group.seconds / paper.seconds:5.1%}  {group.runs:5}  "
        f"{group.kind:<11}  {group.flops / 1e9:9.2f}  {group.bytes / 1e6:9.1f}  {group.dtype:<4}  "
        f"{group.where:<{width}}".rstrip()
        for group in shown
    ]
    rest = paper.groups[rows:]
    if rest:
        seconds, runs = (
            sum(getattr(group, name) for group in rest) for name in ("seconds", "runs")
        )
        share = f"{seconds / paper.seconds:5.1%}"
        lines.append(f"  {seconds * 1e3:8.3f}  {share}  {runs:5}  {len(rest)} more groups")
    return lines


def roofline(kernel: Kernel, sheet: Accelerator) -> float:
    """Seconds of one run at the peaks."""
    return max(sum(_work(kernel, sheet)), kernel.bytes / sheet.bandwidth)


def derated(kernel: Kernel, sheet: Accelerator) -> float:
    """Seconds of one run at what libraries reach."""
    share = ATTENTION if kernel.kind == "attention" else PRODUCTS
    moved = kernel.bytes / (BANDWIDTH * sheet.bandwidth)
    return max(sum(_work(kernel, sheet)) / share, moved, LAUNCH_SECONDS)


def _work(kernel: Kernel, sheet: Accelerator) -> tuple[float, float]:
    """Seconds of the products, and of the exponentials."""
    assert sheet.float32 is not None and sheet.exponentials is not None
    half = kernel.dtype in ("bf16", "f16")
    # Products of float32 run as TF32, at half the rate of 16 bits, unless they must be exact.
    rate = sheet.flops if half else sheet.float32 if kernel.exact else sheet.flops / 2
    return kernel.flops / rate, kernel.exponentials / sheet.exponentials


def _group(
    where: str, kind: str, dtype: str, kernels: Sequence[Kernel], sheet: Accelerator
) -> Group:
    return Group(
        where=where,
        kind=kind,
        dtype=dtype,
        runs=sum(k.runs for k in kernels),
        flops=sum(k.runs * k.flops for k in kernels),
        bytes=sum(k.runs * k.bytes for k in kernels),
        roofline_seconds=sum(k.runs * roofline(k, sheet) for k in kernels),
        seconds=sum(k.runs * derated(k, sheet) for k in kernels),
    )


def place(operation: str) -> str:
    """The part of a network in the path that JAX gives an operation; blocks are not told apart."""
    backward, parts = False, []
    for part in operation.split("/"):
        while wrapped := _WRAPPED.match(part):
            backward = backward or part.startswith("transpose(")
            part = wrapped[1]
        if part and not _NOISE.match(part):
            parts.append(re.sub(r"_\d\d$", "", part))
    *inside, last = parts or ["?"]
    # The last part is the operation itself; of the modules the inner ones say most.
    place = "/".join([*inside[-4:], last])
    return f"{place} (backward)" if backward else place
