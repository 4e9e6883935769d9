"""SIGTERM: the update under way ends, the state is saved, and all hosts stop at one step."""

import contextlib
import itertools
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

EXIT_TERMINATED = 128 + signal.SIGTERM  # what a shell reports for a process ended by SIGTERM
_queries = itertools.count(1)  # how often this process has called `stop_agreed`


class Terminated(SystemExit):
    """SIGTERM came: the state is saved, and the process exits with 143."""

    def __init__(self) -> None:
        super().__init__(EXIT_TERMINATED)


def stop_agreed(terminated: threading.Event) -> bool:
    """Whether to stop after this update; SIGTERM on any host stops all of them at one step."""
    if jax.process_count() > 1:
        # JAX stops all hosts at the number after the highest that one has queried with, which is 1
        # when SIGTERM came before the first update: the steps of a resumed run would be past it.
        return multihost_utils.reached_preemption_sync_point(next(_queries))
    return terminated.is_set()


@contextlib.contextmanager
def sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, so that the update under way can end. Threads cannot listen."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield event  # with several hosts jax.distributed listens
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)
