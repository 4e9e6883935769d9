"""A program's kernels as a profile times them, beside what they should take by the data sheet.

The profiler writes an event for each kernel that runs, with the name of the instruction which
launched it; the text of the compiled program says what this instruction computes and moves
(`plan/compiled_kernels.py`), and the data sheet how long that should take (`plan/paper.py`).
"""

import collections
import dataclasses
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData

from esam_jax.errors import MissingError, one_line
from esam_jax.machine.accelerators import Accelerator
from esam_jax.plan import compiled_kernels, paper
from esam_jax.plan.compiled_kernels import Kernel

_CALLS = 3  # that are traced of a program that takes milliseconds
_MOST_UNMATCHED = 10  # named in the result
_DEVICE = "/device:"
# Lines that repeat other lines of their plane, each kernel under another heading.
_DERIVED = re.compile(r"XLA Modules|Steps|Framework|Source|TensorFlow|XLA TraceMe")


@dataclasses.dataclass(frozen=True)
class Spent:
    """What the events of one instruction add up to."""

    seconds: float = 0.0
    events: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """All kernels of one part of the network, one kind and one dtype; figures of one call.

    `paper_seconds` (derated) and `roofline_seconds` are None where the device has no data sheet.
    """

    where: str
    kind: str
    dtype: str
    runs: int
    flops: int
    bytes: int
    seconds: float
    paper_seconds: float | None
    roofline_seconds: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """One call of a program; `groups` begin with what took longest.

    `unmatched` holds the seconds of instructions that the text has no kernel for, `silent` counts
    kernels of the text that no event was seen of.
    """

    groups: tuple[Group, ...]
    unmatched: dict[str, float]
    silent: int

    @property
    def seconds(self) -> float:
        """In which the device was busy, of what was traced."""
        return self.matched_seconds + sum(self.unmatched.values())

    @property
    def matched_seconds(self) -> float:
        return sum(group.seconds for group in self.groups)

    @property
    def paper_seconds(self) -> float | None:
        return _sum(group.paper_seconds for group in self.groups)

    @property
    def roofline_seconds(self) -> float | None:
        return _sum(group.roofline_seconds for group in self.groups)

    def as_json(self) -> dict[str, Any]:
        unmatched = sorted(self.unmatched.items(), key=lambda each: -each[1])
        return {
            "busy_seconds": self.seconds,
            "matched_share": self.matched_seconds / self.seconds if self.seconds else None,
            "paper_seconds": self.paper_seconds,
            "roofline_seconds": self.roofline_seconds,
            "silent_kernels": self.silent,
            "unmatched_seconds": dict(unmatched[:_MOST_UNMATCHED]),
            "groups": [dataclasses.asdict(group) for group in self.groups],
        }


def measure(
    program: jax.stages.Compiled,
    call: Callable[[], Any],
    sheet: Accelerator | None,
    calls: int = _CALLS,
) -> dict[str, Any]:
    """Traces some calls of a program that has run before. `call` runs it once.

    Without a trace, which takes rights that not every user of a card has, the kernels are those of
    the text alone, and `profile_error` says why.
    """
    text, spent, error = program.as_text(), {}, None
    assert text is not None  # every compiler used here gives it
    try:
        spent = _traced(call, module(text), calls)
    except Exception as fault:  # of whatever kind the vendor's profiler raises
        error = one_line(fault)
    found = match(compiled_kernels.parse(text), spent, calls, sheet)
    return {**found.as_json(), "profile_error": error}


def _traced(call: Callable[[], Any], name: str, calls: int) -> dict[str, Spent]:
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # Python's own calls are many, and not looked at
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(calls):
                jax.block_until_ready(call())
        return read(Path(folder), name, on_device=jax.default_backend() != "cpu")


def module(text: str) -> str:
    """The name of a compiled program, which its events bear."""
    found = re.match(r"HloModule ([^\s,]+)", text)
    return found[1] if found else ""


def read(folder: Path, name: str, *, on_device: bool) -> dict[str, Spent]:
    """Instruction -> what its events of the program `name` took, of a trace in `folder`.

    `on_device`: of planes of devices. The host of these writes events of launches as well. A CPU
    has no plane but the host's. MissingError where there is no event.
    """
    spent: dict[str, Spent] = {}
    files = sorted(folder.rglob("*.xplane.pb"))
    for plane in (plane for file in files for plane in ProfileData.from_file(str(file)).planes):
        if plane.name.startswith(_DEVICE) != on_device:
            continue
        for line in plane.lines:
            if _DERIVED.match(line.name or ""):
                continue
            for event in line.events:
                stats: dict[str, Any] = dict(event.stats)
                if "hlo_op" in stats and stats.get("hlo_module", name) == name:
                    before = spent.get(stats["hlo_op"], Spent())
                    seconds = before.seconds + 1e-9 * event.duration_ns
                    spent[stats["hlo_op"]] = Spent(seconds, before.events + 1)
    if not spent:
        raise MissingError(
            f"the profiler saw no kernel of {name}: look whether it may be used here"
        )
    return spent


def match(
    kernels: Iterable[Kernel], spent: Mapping[str, Spent], calls: int, sheet: Accelerator | None
) -> Profile:
    """The kernels of a program's text with the events of so many calls, in groups.

    What a kernel of unknown trips runs is counted by its events. Loops and calls have events
    around those of what they run: these are left out.
    """
    kernels = list(kernels)
    rest = dict(spent)
    groups: dict[tuple[str, str, str], list[tuple[Kernel, Spent]]] = collections.defaultdict(list)
    silent = 0
    for kernel in kernels:
        seen = rest.pop(kernel.name, Spent())
        silent += seen.events == 0
        if kernel.loops_unknown and seen.events:
            kernel = dataclasses.replace(kernel, runs=round(seen.events / calls))
        groups[_where(kernel), kernel.kind, kernel.dtype].append((kernel, seen))
    made = [_group(key, members, calls, sheet) for key, members in groups.items()]
    return Profile(
        groups=tuple(sorted(made, key=lambda each: (-each.seconds, -(each.paper_seconds or 0)))),
        unmatched={
            name: each.seconds / calls for name, each in rest.items() if not _AROUND.match(name)
        },
        silent=silent,
    )


def _where(kernel: Kernel) -> str:
    """Its part of the network; of what the compiler added, such as copies, its kind."""
    return paper.place(kernel.where) if kernel.where else re.sub(r"[.\d]+$", "", kernel.name)


_AROUND = re.compile(r"(?:while|conditional|call|async)\b")


def _group(
    key: tuple[str, str, str],
    members: list[tuple[Kernel, Spent]],
    calls: int,
    sheet: Accelerator | None,
) -> Group:
    written = None if sheet is None else paper.write((kernel for kernel, _ in members), sheet)
    where, kind, dtype = key
    return Group(
        where=where,
        kind=kind,
        dtype=dtype,
        runs=sum(kernel.runs for kernel, _ in members),
        flops=sum(kernel.runs * kernel.flops for kernel, _ in members),
        bytes=sum(kernel.runs * kernel.bytes for kernel, _ in members),
        seconds=sum(seen.seconds for _, seen in members) / calls,
        paper_seconds=None if written is None else written.seconds,
        roofline_seconds=None if written is None else written.roofline_seconds,
    )


def _sum(values: Iterator[float | None]) -> float | None:
    known = list(values)
    return None if None in known or not known else sum(x for x in known if x is not None)
