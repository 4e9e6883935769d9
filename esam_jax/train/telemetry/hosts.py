"""How long a step takes and what it waits for on every host, and which host keeps the others.

Hosts tell each other through the coordination service: no collective, so that no device and no host
waits. What is read at a line is therefore what all hosts had to say at the line before.
"""

import json
import socket
import statistics
from collections.abc import Mapping
from typing import Any

import jax

from esam_jax.errors import one_line
from esam_jax.processes import coordinator
from esam_jax.train.telemetry.clock import Span

# Of the median step: a host whose devices idle that much longer than those of most others is named.
STRAGGLER_SHARE = 0.1
_FOLDER = "esam_jax/times"
_NAMES = ("step_seconds", "data_wait_seconds", "other_seconds")


class Hosts:
    """The times of all hosts. Every host makes the same calls, at the same steps."""

    def __init__(self) -> None:
        self._exchanges, self._before = 0, 0
        self._named: set[str] = set()

    def exchange(self, step: int, span: Span) -> dict[str, Any]:
        """Publishes this host's times; those of all hosts at the call before, on process 0.

        {} with a single process, where there is nothing to compare.
        """
        service = coordinator.client()
        if service is None or jax.process_count() == 1 or not span.steps:
            return {}
        found = self.last()
        self._exchanges, self._before = self._exchanges + 1, step
        text = json.dumps([socket.gethostname(), *own(span)])
        key = f"{self._folder()}/{jax.process_index()}"
        try:  # a rollback begins to count again
            service.key_value_set(key, text, True)
        except jax.errors.JaxRuntimeError as fault:
            return {"host_times_lost": one_line(fault)}
        return found

    def last(self) -> dict[str, Any]:
        """What the hosts published at the last call; {} before the first, and on others than 0."""
        service = coordinator.client()
        if service is None or jax.process_index() != 0 or not self._exchanges:
            return {}
        try:
            found = coordinator.by_process(service.key_value_dir_get(f"{self._folder()}/"))
            service.key_value_delete(f"{self._folder()}/")
        except jax.errors.JaxRuntimeError as fault:
            return {"host_times_lost": one_line(fault)}
        return in_order({n: json.loads(text) for n, text in found.items()}, self._before)

    def news(self, stragglers: list[str]) -> list[str]:
        """Those of these that were not named before."""
        fresh = [each for each in stragglers if each.split(":")[0] not in self._named]
        self._named |= {each.split(":")[0] for each in fresh}
        return fresh

    def _folder(self) -> str:
        return f"{_FOLDER}/{self._exchanges}"


def own(span: Span) -> list[float]:
    """The median step, and the seconds of a mean one with idle devices: for data, for the rest."""
    middle = statistics.median(span.durations)
    return [round(x, 6) for x in (middle, span.data / span.steps, span.other / span.steps)]


def in_order(found: Mapping[int, list[Any]], step: int) -> dict[str, Any]:
    """The part of a line, of [host name, times ...] by the number of the process."""
    if not found:
        return {}
    numbers = sorted(found)
    columns = zip(*(found[number][1:] for number in numbers), strict=True)
    line: dict[str, Any] = {"hosts_step": step, "hosts": [found[n][0] for n in numbers]}
    line |= {f"host_{name}": list(column) for name, column in zip(_NAMES, columns, strict=True)}
    if slow := stragglers(found):
        line["stragglers"] = slow
    return line


def stragglers(found: Mapping[int, list[Any]]) -> list[str]:
    """Hosts that all others wait for, and why.

    An update ends everywhere at once: what differs is how long the devices of a host idle before
    they begin, and so keep the others.
    """
    step = statistics.median(each[1] for each in found.values())
    usual = statistics.median(each[2] + each[3] for each in found.values())
    return [
        f"host {number} ({host}): idle {data + other:.3g} s of a step of {own_step:.3g} s "
        f"({data:.3g} s for data), most others {usual:.3g} s"
        for number, (host, own_step, data, other) in sorted(found.items())
        if data + other > usual + STRAGGLER_SHARE * step
    ]
