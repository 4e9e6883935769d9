"""Goodput: the share of wall time spent on updates that are part of the result.

Computed from metrics.jsonl alone, from the first start of a run over all its restarts. Within one
part of a run the time is monotonic. The wall clock is used only for the idle time between two
parts, and no decision depends on it.
"""

from collections.abc import Iterable

from esam_jax.runs.metrics_file import Line, Part

# Always reported, in this order. Any other event with a duration gets a bucket of its own name.
BUCKETS = (
    "steps", "data", "redone", "skipped", "compile", "save", "evaluate", "start", "down", "other",
)  # fmt: skip


class Ledger:
    """Adds up the time of a run by bucket, line by line."""

    def __init__(self, lines: Iterable[Line] = ()) -> None:
        self._spent = dict.fromkeys(BUCKETS, 0.0)
        self._part = Part()
        self._before = 0.0  # of all parts but the last, with the time between them
        self._began: float | None = None  # by the wall clock
        self._seconds = 0.0  # of the last part
        self._timed = 0.0  # of those, in events
        for line in lines:
            self.add(line)

    def add(self, line: Line) -> None:
        """Adds a line; lines come in the order of the file."""
        took, before = self._part.add(line)
        event = line.get("event")
        if event == "start":
            self._start(line)
        self._seconds = max(self._seconds, line.get("seconds", 0.0))
        waited = took * line.get("data_wait_share", 0.0)
        # A skipped update has its own line, which also covers the good ones before it.
        lost = (took - waited) / max(1, line["step"] - before) if line.get("skipped") else 0.0
        self._spent["steps"] += took - waited - lost + line.get("useful", 0.0)
        self._spent["data"] += waited
        self._spent["skipped"] += lost
        if event is not None and "took" in line:
            self._spent[event] = self._spent.get(event, 0.0) + line["took"]
            self._timed += line["took"]
        if event == "compile":  # before it the start may have been saved and measured
            self._spent["start"] += max(0.0, line["seconds"] - self._timed)

    def seconds(self) -> float:
        """Since the first start."""
        return float(self._before + self._seconds)

    def spent(self) -> dict[str, float]:
        """Seconds in each bucket, which add up to `seconds()`."""
        known = sum(self._spent.values()) - self._spent["other"]
        return self._spent | {"other": max(0.0, self.seconds() - known)}

    def goodput(self) -> float:
        """In [0, 1]."""
        return self._spent["steps"] / self.seconds() if self.seconds() > 0 else 0.0

    def _start(self, line: Line) -> None:
        now = line.get("time")
        if self._began is not None and now is not None:
            # A clock that was set back would give negative time: count none.
            down = max(0.0, now - self._began - self._seconds)
            self._spent["down"] += down
            self._before += down
        self._before += self._seconds
        self._began, self._seconds, self._timed = now, 0.0, 0.0
