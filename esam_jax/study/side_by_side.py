"""Trials in worker processes, each of which computes on one processor.

Two programs on a processor each do more in an hour than two that share both, and what a program
computes does not depend on how many there are: a study gives the same numbers on any number of
processors. On accelerators trials run one after the other, each on all of them.
"""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from esam_jax.data import parallel
from esam_jax.errors import ConfigError, PeerError
from esam_jax.machine import compile_cache
from esam_jax.study import trials
from esam_jax.study.design import Design, Trial, needs

MOST = 8  # processes by default: each holds some 700 MB
# How many threads a client of XLA for CPUs starts; BLAS has its own.
_ONE_THREAD = {"PJRT_NPROC": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

Outcome = tuple[Trial, dict[str, Any], float]  # with seconds


def over(
    waiting: Sequence[Trial], design: Design, workdir: Path, processes: int | None
) -> Iterator[Outcome]:
    """Each trial with what was measured, as they are done; none begins before those that it needs.

    `waiting` are not done yet, and what they need is among them or done. What one raises is raised
    here, as is an interruption, and waits for no other: those resume from their last checkpoints.
    PeerError for a process that ended. `processes`: None for one of each processor, one alone
    on accelerators.
    """
    if processes is not None and processes < 1:
        raise ConfigError(f"processes is {processes}, but must be at least 1")
    wanted = processes or min(MOST, parallel.available())
    context = multiprocessing.get_context("spawn")  # threads of this process are not copied
    stop, most = context.Event(), min(wanted, len(waiting) or 1)
    pool = concurrent.futures.ProcessPoolExecutor(most, context, _begin, (stop,))
    try:
        if processes is None and pool.submit(_platform).result() != "cpu":
            wanted = 1
        yield from _in_order(pool, list(waiting), design, workdir, wanted)
    except BrokenProcessPool as fault:
        raise PeerError(
            "a process of the study ended before its trial was done, as one does that is killed "
            "for want of memory: start again with fewer --processes"
        ) from fault
    except BaseException:  # a trial takes minutes
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(
    pool: concurrent.futures.Executor,
    waiting: list[Trial],
    design: Design,
    workdir: Path,
    most: int,
) -> Iterator[Outcome]:
    running: dict[Future[Any], Trial] = {}
    undone = {*waiting}
    while undone:
        free = [each for each in waiting if undone.isdisjoint(needs(each))]
        for trial in free[: most - len(running)]:
            waiting.remove(trial)
            running[pool.submit(_run, trial, design, workdir)] = trial
        done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in done:
            trial = running.pop(future)
            found, seconds = future.result()
            undone.remove(trial)
            yield trial, found, seconds


def _begin(stop: Event) -> None:
    """Makes a process a worker, before it starts JAX; it ends with its parent, or on `stop`."""
    os.environ |= _ONE_THREAD
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    warnings.simplefilter("ignore")
    compile_cache.enable()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow(wait: Callable[[], Any]) -> None:
        wait()
        os._exit(1)  # or a parent that is killed would leave this process behind

    for wait in (parent.join, stop.wait):
        threading.Thread(target=follow, args=(wait,), daemon=True).start()


def _platform() -> str:
    import jax

    return jax.default_backend()


def _run(trial: Trial, design: Design, workdir: Path) -> tuple[dict[str, Any], float]:
    began = time.monotonic()
    found = trials.run(trial, design, workdir)
    return found, round(time.monotonic() - began, 1)
