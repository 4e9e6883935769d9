"""What happens inside a training process for the chaos runner: a journal, and faults on demand.

The journal of process n has one JSON line where training begins or resumes, and one for every batch
that is handed to an update, with a digest of its pixels. Faults that no signal can bring about are
asked for by a file, which their victim takes away.
"""

import functools
import inspect
import json
import os
import time
import zlib
from pathlib import Path

import jax
import numpy as np

from esam_jax.data import loader, views, workers

FOLDER = "CHAOS_FOLDER"  # the environment's name for where journals and requests lie
CLOCK, READER = "clock", "reader"


def install():
    """Puts the hooks in, unless the process is none of the chaos runner's."""
    if FOLDER not in os.environ:
        return
    number = int(os.environ.get("JAX_PROCESS_ID", 0))
    folder = Path(os.environ[FOLDER])
    _keep_journal(journal(folder, number))
    _shift_clock(request(folder, CLOCK, number))
    _break_reader(request(folder, READER, number))
    workers._begin = begin_worker


_begin = workers._begin


def begin_worker(worker, count):
    """How a worker process of the loader begins, which imports this file for it."""
    _begin(worker, count)
    folder, number = Path(os.environ[FOLDER]), int(os.environ.get("JAX_PROCESS_ID", 0))
    _break_reader(request(folder, READER, number))


def journal(folder, number):
    """The journal of one process."""
    return folder / f"journal-{number}.jsonl"


def request(folder, kind, number):
    """The file that asks one process for a fault; it holds the fault's size."""
    return folder / f"{kind}-{number}"


def _keep_journal(file):
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(**line):
        os.write(handle, (json.dumps(line) + "\n").encode())  # whole, or not at all

    open_stream, read = loader.stream, loader.Stream.__next__
    signature = inspect.signature(open_stream)
    done = {}  # stream -> updates that have had their batch

    @functools.wraps(open_stream)
    def stream(*args, **keys):
        result = open_stream(*args, **keys)
        done[id(result)] = signature.bind(*args, **keys).arguments.get("first_batch", 0)
        write(life=os.getpid(), step=done[id(result)])
        return result

    def next_batch(self):
        batch = read(self)
        done[id(self)] += 1
        write(step=done[id(self)], digest=_digest(batch))
        return batch

    loader.stream, loader.Stream.__next__ = stream, next_batch


def _digest(batch):
    """A number for the pixels of this process's rows, as they arrived on its devices."""
    with jax.transfer_guard("allow"):
        pieces = [np.asarray(shard.data) for shard in batch["image"].addressable_shards]
    return functools.reduce(lambda sum_, piece: zlib.crc32(piece.tobytes(), sum_), pieces, 0)


def _shift_clock(file):
    """From the moment that `file` is there, the time of day is off by as many seconds as it says.

    Monotonic clocks continue as they were, as they do when somebody sets the time.
    """
    now, now_ns = time.time, time.time_ns
    offset = [0.0]

    def look():
        if file.exists():
            offset[0] += float(file.read_text())
            file.unlink()
        return offset[0]

    time.time = lambda: now() + look()
    time.time_ns = lambda: now_ns() + int(look() * 1e9)


def _break_reader(file):
    """The next view that is made after `file` appeared, in this process or a worker, raises."""
    make = views.make

    @functools.wraps(make)
    def broken(*args, **keys):
        if file.exists():
            file.unlink(missing_ok=True)  # several may see it at once
            raise RuntimeError("the chaos runner broke this thread of the loader")
        return make(*args, **keys)

    views.make = broken
