"""The threads of a save of Orbax that has failed: they are told to end, and waited for.

Where the first thing goes wrong, the folder of a checkpoint, the threads that would write into it
wait five minutes for a signal that never comes, and no process ends before its threads.
"""

import contextlib
import threading
import time

try:
    from orbax.checkpoint._src.futures import future
except ImportError:  # it is a private module, which may be gone from one release to the next
    future = None


def end(seconds: float) -> None:
    """Returns when no thread of a save is left, or after so many seconds.

    Must not be called while a save is under way. What its threads complain of is left to Orbax.
    """
    if future is None:
        return
    there = [each for each in threading.enumerate() if type(each).__module__ == future.__name__]
    for thread in there:
        with contextlib.suppress(Exception):
            thread.cancel()  # pyright: ignore[reportAttributeAccessIssue]
            future.set_signals(
                thread._receive_signals,  # pyright: ignore[reportAttributeAccessIssue]
                operation_id=thread._operation_id,  # pyright: ignore[reportAttributeAccessIssue]
            )
    last = time.monotonic() + seconds
    for thread in there:
        with contextlib.suppress(Exception):
            thread.join(max(0.0, last - time.monotonic()))
