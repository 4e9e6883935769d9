"""Where the time of a step goes, measured by the host without stopping the device.

The host always has one update under way, and may ask whether that is done yet, which costs nothing.
Whatever the host does while the device is busy is free; it counts only once the device has nothing
left to do. So a step's time falls in three parts: `data`, waiting for a batch with an idle device;
`other`, anything else with an idle device; `compute`, the rest.
"""

import collections
import dataclasses
import statistics
import time
from collections.abc import Callable

_WINDOW = 200  # steps that the usual duration is taken from
_ENOUGH = 20  # steps before any is called slow
_MARGIN = 1.2  # times the threshold: a median of 5 ms has deviations of microseconds


@dataclasses.dataclass
class Span:
    """Some steps in a row, and the seconds that they took."""

    steps: int = 0
    seconds: float = 0.0
    data: float = 0.0
    other: float = 0.0
    slow: int = 0
    durations: list[float] = dataclasses.field(default_factory=list)

    def metrics(self, batch: int) -> dict[str, float]:
        """What a line says of them; nothing where no step was timed."""
        if not self.steps:
            return {}
        idle = {"data_wait_share": self.data, "other_share": self.other}
        shares = {name: min(1.0, part / self.seconds) for name, part in idle.items()}
        shares["compute_share"] = max(0.0, 1.0 - sum(shares.values()))
        slowest = {"slow_steps": self.slow, "slowest_step_seconds": round(max(self.durations), 6)}
        return {
            "examples_per_second": round(self.steps * batch / self.seconds, 3),
            "step_seconds": round(statistics.median(self.durations), 6),
            **{name: round(share, 4) for name, share in shares.items()},
            **(slowest if self.slow else {}),
        }


class StepClock:
    """Times every step from the end of the one before to its own end; `clock` is in seconds.

    A round calls `asked`, `batch_is_here`, `dispatched` and, once the update before is known to be
    done, `finished`. `busy` says whether the device still works on an update: a stretch of time
    counts as idle when it is not, at its end, so that idle time is rather over- than understated.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._recent: collections.deque[float] = collections.deque(maxlen=_WINDOW)
        self._limit = float("inf")
        self._span = Span()
        self._last_end: float | None = None
        self.restart()

    def restart(self) -> None:
        """Leaves out the time since the last step, when no update is under way."""
        if self._last_end is not None:  # before the first step nothing can be timed
            self._last_end = self._clock()
        self._mark, self._data, self._other, self._busy = self._clock(), 0.0, 0.0, True

    def asked(self, busy: bool) -> None:
        """The host is about to wait for a batch."""
        self._other += self._lap(busy)

    def batch_is_here(self, busy: bool) -> None:
        """The next batch has come."""
        self._data += self._lap(busy)
        self._busy = busy

    def dispatched(self) -> None:
        """The next update was handed to the device."""
        self._other += self._lap(self._busy)

    def finished(self) -> None:
        """The update before the one under way is done."""
        before, self._last_end = self._last_end, self._clock()
        data, other = self._data, self._other
        self._mark, self._data, self._other = self._last_end, 0.0, 0.0
        if before is not None:
            took, span = self._last_end - before, self._span
            span.steps, span.seconds = span.steps + 1, span.seconds + took
            span.data, span.other = span.data + data, span.other + other
            span.durations.append(took)
            span.slow += took > self._limit
            self._recent.append(took)

    def take(self) -> Span:
        """What was timed since the last call."""
        span, self._span = self._span, Span()
        if len(self._recent) >= _ENOUGH:
            self._limit = _MARGIN * usual(list(self._recent))
        return span

    def _lap(self, busy: bool) -> float:
        now = self._clock()
        lap, self._mark = now - self._mark, now
        return 0.0 if busy else lap


def usual(durations: list[float]) -> float:
    """Median + 3 * MAD: what a normal step takes at most (arXiv:2502.06982)."""
    middle = statistics.median(durations)
    return middle + 3 * statistics.median(abs(x - middle) for x in durations)
