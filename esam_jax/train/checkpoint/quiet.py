"""Failed saves are reported once, by us: what Orbax and TensorStore print about them is left out.

What their threads log with a traceback they also raise, to whoever waits for the save. A full disk
was reported five times, in hundreds of lines, before the one line of ours.
"""

import atexit
import contextlib
import functools
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from esam_jax import files

_LOG = logging.getLogger("absl")  # Orbax's
_FUTURES = logging.getLogger("asyncio")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Around all saves of a run, and the wait for the threads of the last one."""
    before = sys.unraisablehook

    def hook(found: Any) -> None:
        if not _is_late(found.exc_value):
            before(found)

    _LOG.addFilter(_is_news)
    # For good: a future dies with the last error that holds it, at the end of the process.
    _FUTURES.addFilter(_is_not_of_a_full_disk)
    _at_the_end()
    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
        _LOG.removeFilter(_is_news)


@functools.cache  # once
def _at_the_end() -> None:
    """A failed save leaves a coroutine in a cycle that is only freed at the end of the process."""
    message = "coroutine '.*' was never awaited"
    atexit.register(warnings.filterwarnings, "ignore", message, RuntimeWarning)


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.exc_info and "orbax" in Path(record.pathname).parts)


def _is_not_of_a_full_disk(record: logging.LogRecord) -> bool:
    """Whether this is anything but a write that failed after the first that did."""
    error = record.exc_info[1] if record.exc_info else None
    while error is not None and not files.is_full(error):
        error = error.__cause__ or error.__context__
    return error is None


def _is_late(error: BaseException | None) -> bool:
    """Of TensorStore: a write ended after the first that failed had closed the loop of the save."""
    return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"
