"""Timing of calls, one after another in turn, and of the compilation in them."""

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

WARM_UP = 1  # calls after the one that compiles and before those that count


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one call: the first, each of those that count, and the part of the first in which
    JAX lowered and compiled, by its own account (0 where it had nothing to compile, or was not
    involved)."""

    first: float
    seconds: tuple[float, ...]
    compile: float = 0.0

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    @property
    def p90(self) -> float:
        """Nine of ten calls take no longer (linear between two runs)."""
        return float(np.percentile(self.seconds, 90))

    def as_json(self) -> dict[str, Any]:
        return {
            "median_seconds": self.median,
            "p90_seconds": self.p90,
            "compile_seconds": self.compile,
            "first_seconds": self.first,
            "seconds": list(self.seconds),
        }


def in_turn(
    calls: Sequence[Callable[[], Any]], runs: int, clock: Callable[[], float] = time.perf_counter
) -> list[Timing]:
    """Times every call `runs` times, A B A B ..., so that other load affects all of them alike.

    A call ends when all of its result is computed. Before the runs each is called once to compile
    and `WARM_UP` times more. `clock` is in seconds.
    """

    def timed(call: Callable[[], Any]) -> float:
        begin = clock()
        wait(call())
        return clock() - begin

    first, compiling = [], []
    for call in calls:
        before = compile_seconds()
        first.append(timed(call))
        compiling.append(compile_seconds() - before)
    for _ in range(WARM_UP):
        for call in calls:
            timed(call)
    rounds = [[timed(call) for call in calls] for _ in range(runs)]
    return [Timing(*each) for each in zip(first, zip(*rounds), compiling, strict=True)]


def wait(result: Any) -> None:
    """Returns when the result is computed, by JAX or by PyTorch on a GPU."""
    jax.block_until_ready(result)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


# Tracing is left out: programs within a program would count twice.
_COMPILING = (
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)
_spent = [0.0]


def compile_seconds() -> float:
    """Time in which JAX lowered and compiled since this module was imported."""
    return _spent[0]


def _listen(event: str, duration_secs: float, **details: object) -> None:
    if event in _COMPILING:
        _spent[0] += duration_secs


jax.monitoring.register_event_duration_secs_listener(_listen)
