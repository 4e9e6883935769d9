"""Work on every record of a source, by several processes, with results in the order of records."""

import collections
import concurrent.futures
import itertools
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from esam_jax.data.records import Source
from esam_jax.errors import PeerError

_T = TypeVar("_T")
Work = Callable[[Source, int], _T]

_AT_ONCE = 16  # records that a process is given
_AHEAD = 3  # such lots for each process, which are done before their results are used

_source: Source  # of a worker process
_work: Work[Any]


def available() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def over(
    source: Source, indices: Sequence[int], work: Work[_T], workers: int, at_once: int = _AT_ONCE
) -> Iterator[_T]:
    """work(source, index) for each of the indices, in their order.

    `work` is a function of a module, or a `functools.partial` of one, and so are its results and
    the source sent between processes, `at_once` indices at a time; for two such lots no process is
    started. What it raises is raised here. PeerError for a process that
    ended: one that needs more memory than there is is killed.
    """
    if workers == 1 or len(indices) <= 2 * at_once:
        yield from (work(source, int(index)) for index in indices)
        return
    lots = [indices[i : i + at_once] for i in range(0, len(indices), at_once)]
    workers = min(workers, len(lots))
    context = multiprocessing.get_context("spawn")  # the threads of this process are not copied
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _begin, (source, work))
    try:
        waiting: collections.deque[concurrent.futures.Future[list[_T]]] = collections.deque()
        for lot in itertools.chain(lots, itertools.repeat(None, workers * _AHEAD)):
            if lot is not None:
                waiting.append(pool.submit(_do, [int(index) for index in lot]))
            if waiting and (lot is None or len(waiting) > workers * _AHEAD):
                yield from waiting.popleft().result()
    except BrokenProcessPool as fault:
        raise PeerError(
            "a worker process ended before its work was done, as one does that is killed for want "
            "of memory: start again with fewer --workers"
        ) from fault
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(source: Source, work: Work[Any]) -> None:
    """Makes a process a worker."""
    global _source, _work
    _source, _work = source, work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    warnings.simplefilter("ignore")  # what is to be known of a record is in its result
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)  # or a parent that is killed would leave this process behind

    threading.Thread(target=follow, daemon=True).start()


def _do(indices: Sequence[int]) -> list[Any]:
    return [_work(_source, index) for index in indices]
