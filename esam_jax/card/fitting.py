"""The largest batch that fits: by what the compiler says of memory first, then by running it."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from esam_jax.errors import DeviceMemoryError
from esam_jax.machine import out_of_memory
from esam_jax.plan import compiled

Result = TypeVar("Result")

_MOST_COMPILED = 4  # of which two are usual: each takes a minute for a large step
_WORTH_IT = 1.5  # times the batch that is known to fit: less is not worth a compilation
_SMALLER = 0.7  # what is tried next when the device runs out of memory all the same


@dataclasses.dataclass(frozen=True)
class Tried:
    """One batch: the compiler's peak in bytes, and whether it ran (None: it was not tried).

    Where the compiler itself ran out of memory, the peak is what it asked for, or else twice what
    there is, which is a guess.
    """

    batch: int
    peak_bytes: int
    compile_seconds: float
    ran: bool | None = None


def largest(
    compile_at: Callable[[int], tuple[Any, float]],
    run: Callable[[Any, int], Result],
    *,
    usable: int,
    first: int,
    most: int,
) -> tuple[Result, list[Tried]]:
    """What `run` returns for the largest batch that fits, and all that was tried.

    `compile_at` gives the compiled program of a batch, and the seconds that it took. A batch whose
    peak is above `usable` bytes is never run. DeviceMemoryError where not even the smallest that
    was tried fits.
    """
    programs: dict[int, Any] = {}
    tried: dict[int, Tried] = {}

    def add(batch: int) -> None:
        try:
            with out_of_memory.advice():
                programs[batch], seconds = compile_at(batch)
        except DeviceMemoryError as error:
            peak = max(usable + 1, compiled.needed_bytes(str(error)) or 2 * usable)
            tried[batch] = Tried(batch, peak, 0.0, ran=False)
        else:
            tried[batch] = Tried(batch, peak_bytes(programs[batch]), seconds)

    add(rounded(min(first, most)))
    while len(tried) < _MOST_COMPILED:
        fits = [batch for batch, each in tried.items() if each.peak_bytes <= usable]
        batch = rounded(min(most, _estimate(list(tried.values()), usable)))
        if batch in tried or (fits and batch < _WORTH_IT * max(fits)):
            break
        add(batch)
    for _ in range(_MOST_COMPILED):
        fits = [x.batch for x in tried.values() if x.peak_bytes <= usable and x.ran is None]
        if not fits:
            break
        batch = max(fits)
        try:
            with out_of_memory.advice():
                result = run(programs[batch], batch)
        except DeviceMemoryError:
            tried[batch] = dataclasses.replace(tried[batch], ran=False)
            smaller = rounded(int(_SMALLER * batch))
            if smaller not in tried:
                add(smaller)
            continue
        tried[batch] = dataclasses.replace(tried[batch], ran=True)
        return result, list(tried.values())
    asked = ", ".join(f"{each.batch}: {each.peak_bytes / 2**30:.2f} GiB" for each in tried.values())
    raise DeviceMemoryError(
        f"no batch fits into {usable / 2**30:.2f} GiB ({asked}): free the device of other programs"
    )


def rounded(batch: int) -> int:
    """At most `batch`, and at least 1: a power of two, or one and a half of one."""
    power = 1 << max(0, batch.bit_length() - 1)
    return max(1, power + power // 2 if batch >= power + power // 2 else power)


def peak_bytes(program: jax.stages.Compiled) -> int:
    """What it needs of the memory of the device that is here."""
    return compiled.peak_bytes(program, on_cpu=jax.default_backend() == "cpu")


def _estimate(tried: list[Tried], usable: int) -> int:
    """The batch whose peak would be just below `usable`: a line through the two nearest points.

    Through one point it goes through the origin, which errs on the side of a smaller batch.
    """
    nearest = sorted(tried, key=lambda each: abs(each.peak_bytes - usable))[:2]
    slope = nearest[0].peak_bytes / nearest[0].batch
    if len(nearest) == 2 and nearest[0].peak_bytes != nearest[1].peak_bytes:
        a, b = nearest
        slope = (a.peak_bytes - b.peak_bytes) / (a.batch - b.batch)
    if slope <= 0:
        return nearest[0].batch
    return int(nearest[0].batch + (usable - nearest[0].peak_bytes) / slope)
