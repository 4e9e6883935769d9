"""Threads of a generator that may be left before its end, by the garbage collector as well."""

from concurrent.futures import ThreadPoolExecutor
from types import TracebackType


class ThreadPool(ThreadPoolExecutor):
    """As its base, but work is cancelled on leaving, and a generator that is closed waits for none.

    The garbage collector closes a generator wherever it happens to run, even while a thread starts
    and holds the lock that joining another one needs: waiting there would never end.
    """

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Cancel what has not begun; wait for the rest, except where a generator is closed."""
        if kind is GeneratorExit and not any(thread.is_alive() for thread in self._threads):
            return  # Python ends: threads have been joined, and modules are no longer there
        self.shutdown(wait=kind is not GeneratorExit, cancel_futures=True)
