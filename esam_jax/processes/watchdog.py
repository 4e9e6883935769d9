"""Ends a run in which no update finishes any more, after showing where every host is.

A collective that one host never enters keeps all others waiting without an error, while heartbeats
continue. Each host watches independently; none queries the device or the others until something is
wrong.
"""

import collections
import contextlib
import faulthandler
import math
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax

from esam_jax.processes import coordinator

EXIT_HANG = os.EX_TEMPFAIL  # 75: starting again may help
STACKS_FOLDER = "stacks"
# Added to the limit while something other than an update is done, unless that names less. The
# longest compilation seen took six minutes, on two cores.
SLOW_SECONDS = 3600.0
GRACE_SECONDS = 10.0  # for all hosts to find the hang and to report where they are
_FOLDER = "esam_jax/hang"  # where hosts report to each other that they have found a hang
_FIRST = "the first update and what comes before it"
_Batch = TypeVar("_Batch")


class Watchdog:
    """A context manager around the loop; `seconds` without a finished update end the process.

    Time in which this process does not run at all (Ctrl-Z, a suspended machine) does not count.
    """

    def __init__(
        self,
        seconds: float | None,
        workdir: Path,
        *,
        slow_seconds: float = SLOW_SECONDS,
        leave: Callable[[int], Any] = os._exit,
        alert: Callable[[str], Any] = bool,
    ) -> None:
        """Watches nothing when `seconds` is None; `leave` is called with the exit code, after
        `alert` with what has happened, in words.
        """
        self._seconds, self._slow_seconds, self._leave = seconds, slow_seconds, leave
        self._alert, self._tells = alert, True
        self._file = workdir / STACKS_FOLDER / f"host_{jax.process_index():03d}.txt"
        self._phase: str | None = None
        self._awaited: Callable[[], str] | None = None
        self._extra = slow_seconds
        self._started, self._quiet = False, 0.0
        self._begun = self._finished = 0
        self._waiting: collections.deque[tuple[int, Any]] = collections.deque()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._seconds is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def watching(self, step_fn: Callable[..., Any], first_step: int) -> Callable[..., Any]:
        """`step_fn`, whose calls and results are recorded; it still returns before the device."""
        self._begun = self._finished = first_step

        def step(*args: Any) -> Any:
            self._begun += 1
            state, metrics = step_fn(*args)
            if self._seconds is not None:
                self._waiting.append((self._begun, metrics))
            return state, metrics

        return step

    def reading(self, batches: Iterator[_Batch], awaited: Callable[[], str]) -> Iterator[_Batch]:
        """`batches`; `awaited` says, in words, what the next one waits for, should it not come."""
        while True:
            self._awaited = awaited
            batch = next(batches)
            self._awaited = None
            yield batch

    @contextlib.contextmanager
    def slow(self, phase: str, seconds: float = math.inf) -> Iterator[None]:
        """Allows `seconds` more, an hour at most, while something other than an update is done."""
        before = self._phase, self._extra
        self._phase, self._extra = phase, min(seconds, self._slow_seconds)
        try:
            yield
        finally:
            (self._phase, self._extra), self._quiet = before, 0.0

    def _watch(self) -> None:
        assert self._seconds is not None
        pause = min(1.0, self._seconds / 10)
        last = time.monotonic()
        while not self._over.wait(pause):
            now = time.monotonic()
            self._quiet += min(now - last, 2 * pause)
            last = now
            self._notice()
            phase = self._phase if self._started else _FIRST
            late = self._quiet > self._seconds
            if late and phase is not None and self._quiet <= self._seconds + self._extra:
                late = self._others_hang()  # they wait for this host
                # The query may take longer than a pause, and that time counts too.
                self._quiet += min(time.monotonic() - now, GRACE_SECONDS)
                last = time.monotonic()
            if late:
                self._end(phase)
                return

    def _notice(self) -> None:
        """Records the updates that the device has finished; waits for nothing."""
        while self._waiting and jax.tree.leaves(self._waiting[0][1])[0].is_ready():
            self._finished, _ = self._waiting.popleft()
            self._started, self._quiet = True, 0.0

    def _end(self, phase: str | None) -> None:
        where = f"update {self._begun} begun, {self._finished} finished"
        where += f", in {phase}" if phase else ""
        where += f", waiting for {awaited}" if (awaited := self._in_words()) else ""
        found = f"no update finished in {self._quiet:.0f} s on host {jax.process_index()} ({where})"
        _say(f"{found}: {self._file}. Where updates take so long, raise --guard.hang-seconds")
        faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
        # What hangs may be the disk or the coordination service: neither is waited for long.
        threads = [
            threading.Thread(target=work, args=(where,), daemon=True)
            for work in (self._write_stacks, self._compare)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * GRACE_SECONDS)
        if self._tells:
            telling = threading.Thread(target=self._alert, args=(f"{found}: {self._file}",))
            telling.daemon = True
            telling.start()
            telling.join(2 * GRACE_SECONDS)
        for child in multiprocessing.active_children():  # a stopped one would not end by itself
            child.kill()
        self._leave(EXIT_HANG)

    def _in_words(self) -> str:
        """What the next batch waits for; "" where there is nothing to say, or no answer."""
        awaited, found = self._awaited, []
        if awaited is None:
            return ""

        def query() -> None:
            with contextlib.suppress(Exception):  # of any source: it must not end this thread
                found.append(awaited())

        querying = threading.Thread(target=query, daemon=True)
        querying.start()
        querying.join(GRACE_SECONDS)
        return found[0] if found else "data"

    def _others_hang(self) -> bool:
        """Whether a host has found no update finished in time, outside its slow phases."""
        service, found = coordinator.client(), []
        if service is None:
            return False

        def query() -> None:
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                found.extend(service.key_value_dir_get(f"{_FOLDER}/"))

        # The service may not answer, and this thread must continue to count.
        querying = threading.Thread(target=query, daemon=True)
        querying.start()
        querying.join(GRACE_SECONDS)
        return bool(found)

    def _write_stacks(self, where: str) -> None:
        """The stack of every thread into the run folder."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("w") as file:
                file.write(f"no update finished in {self._quiet:.0f} s: {where}\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError as fault:
            _say(f"{self._file} cannot be written ({fault.strerror})")

    def _compare(self, where: str) -> None:
        """Reports to the other hosts where this one is, and to the user which are behind."""
        service, total = coordinator.client(), jax.process_count()
        if service is None or total == 1:
            return
        service.key_value_set(f"{_FOLDER}/{jax.process_index()}", f"{self._begun} {where}", True)
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # those that did not come are named
            service.wait_at_barrier(f"{_FOLDER}/reported", int(1000 * GRACE_SECONDS))
        found = coordinator.by_process(service.key_value_dir_get(f"{_FOLDER}/"))
        # One host alerts. It is process 0 if that answers, without which the others cannot leave.
        self._tells = jax.process_index() == min(found, default=jax.process_index())
        reports = {number: text.split(" ", 1) for number, text in found.items()}
        _say("; ".join(behind({n: (int(begun), at) for n, (begun, at) in reports.items()}, total)))
        # The service lives in process 0, which ends after the others have read.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            service.wait_at_barrier(f"{_FOLDER}/read", int(1000 * GRACE_SECONDS / 2))


def behind(reports: dict[int, tuple[int, str]], total: int) -> list[str]:
    """One line for each host that is silent or has begun fewer updates than another."""
    most = max(begun for begun, _ in reports.values())
    silent = [
        f"host {number} is silent: it is stopped, dead or cut off"
        for number in range(total)
        if number not in reports
    ]
    slow = [
        f"host {number} is behind ({where}; others have begun {most})"
        for number, (begun, where) in sorted(reports.items())
        if begun < most
    ]
    return silent + slow or [f"all {total} hosts are in the same update"]


def _say(text: str) -> None:
    print("esam:", text, file=sys.stderr, flush=True)
