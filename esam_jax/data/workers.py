"""Examples in the order of their positions, made by threads, or by worker processes and theirs.

Each worker process makes every n-th chunk of consecutive positions and the chunks are taken in
turn, so that the order does not depend on how many there are. A chunk's arrays lie in shared memory
(`/dev/shm`), and its worker is done with them once they are there.
"""

import dataclasses
import functools
import itertools
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from esam_jax.config import DataConfig
from esam_jax.data import order, views
from esam_jax.data.examples import Attempt, Example, Examples
from esam_jax.errors import PeerError

_CHUNK_BYTES = 2**20  # below it, what every chunk costs besides its bytes is what counts
_MOST_IN_A_CHUNK = 32
_MOST_NAMED = 3  # records of a chunk that does not come
_DIED = "Worker process was terminated unexpectedly"  # how Grain's RuntimeError begins
_REMEDY = {
    -signal.SIGKILL: "most often for lack of memory: set fewer --data.workers",
    -signal.SIGBUS: "/dev/shm is full: give a container more (docker run --shm-size 16g)",
}


def read(
    examples: Examples,
    config: DataConfig,
    *,
    rows: Sequence[int],
    batch: int,
    ahead: int,
    first: int,
) -> "Reading":
    """The endless examples of a process with these `rows` of global batches, from its `first` on.

    `ahead` are made before they are needed. With `config.workers` the script that starts a run
    must be importable (`if __name__ == "__main__":`), as for any process that Python spawns.
    """
    threads = math.ceil(config.threads / max(config.workers, 1))
    size = _chunk(config) if config.workers else 1  # or threads would wait for one of them
    held = math.ceil(max(ahead, config.threads) / (size * max(config.workers, 1)))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(held, threads))
    starts = grain.MapDataset.range(first, sys.maxsize, size)
    make = functools.partial(_make, examples, tuple(rows), batch, size)
    dataset = starts.map(make).to_iter_dataset(options)
    if config.workers:
        if not flags.FLAGS.is_parsed():  # Grain's processes ask for flags that no one here gives
            flags.FLAGS.mark_as_parsed()
        spread = grain.MultiprocessingOptions(num_workers=config.workers)
        dataset = dataset.mp_prefetch(spread, _begin)

    def positions(chunk: int) -> list[int]:
        starts = first + chunk * size
        return [order.position(starts + k, rows, batch) for k in range(size)]

    return Reading(iter(dataset), lambda chunk: _in_words(examples, positions(chunk)))


class Reading:
    """An iterator of examples; `close` stops what makes them.

    PeerError when a worker process has died. Nothing limits how long one is waited for: `awaited`
    says which (`processes.watchdog` ends a run in which none comes).
    """

    def __init__(self, chunks: Any, in_words: Callable[[int], str]) -> None:
        self._chunks: Any = chunks
        self._in_words = in_words
        self._taken = 0  # chunks
        self._closed = False
        self._examples: Iterator[Example] = itertools.chain.from_iterable(
            map(_unpack, self._alive())
        )

    def __iter__(self) -> Iterator[Example]:
        return self

    def __next__(self) -> Example:
        if self._closed:
            raise ValueError("the examples are closed")
        return next(self._examples)

    def awaited(self) -> str:
        """The examples that come next from a thread or process, in words."""
        return self._in_words(self._taken)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._chunks.close()
        # What was made ahead frees its shared memory.
        self._chunks, self._examples = None, iter(())

    def _alive(self) -> Iterator["_Chunk"]:
        while True:
            try:
                chunk = next(self._chunks)
            except RuntimeError as error:
                if not str(error).startswith(_DIED):
                    raise
                raise PeerError(_death(str(error))) from error
            self._taken += 1
            yield chunk


def _in_words(examples: Examples, positions: Sequence[int]) -> str:
    names = [examples.name(position) for position in positions]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    numbers = " to ".join(map(str, dict.fromkeys((positions[0], positions[-1]))))
    return f"the data at position {numbers}, which is of {', '.join(names[:_MOST_NAMED])}{more}"


def _death(message: str) -> str:
    """What Grain says of a worker process, with what its exit code means."""
    code = next((code for code in _REMEDY if f"exit code {code}." in message), None)
    why = "the reason may stand above" if code is None else _REMEDY[code]
    return f"a worker process of the data loader died ({message.split('. ')[0]}); {why}"


def _begin(worker: int, workers: int) -> None:
    """Sets up a worker process: it leaves signals to the run, and does not survive it.

    In the seconds before, while it imports, a signal to all processes ends it, and the run with 75.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"  # should anything here use JAX: devices are the run's
    for ignored in (signal.SIGINT, signal.SIGTERM):  # sent to all processes; the run closes it
        signal.signal(ignored, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


# ------------------------------------------------------------------------------------- chunks

# Arrays of several views by their name, on a first axis for the views; then, for each example, its
# position, its attempts, and its place on that axis. A tuple, whose arrays Grain finds.
_Chunk = tuple[dict[str, np.ndarray], list["_Listed"]]


@dataclasses.dataclass(frozen=True)
class _Listed:
    position: int
    attempts: tuple[Attempt, ...]
    place: int | None


def _chunk(config: DataConfig) -> int:
    """How many examples are handed over at once."""
    each = sum(
        math.prod(shape) * dtype.itemsize for shape, dtype in views.shapes(config.view).values()
    )
    return min(max(1, _CHUNK_BYTES // each), _MOST_IN_A_CHUNK)


def _make(examples: Examples, rows: tuple[int, ...], batch: int, size: int, first: int) -> _Chunk:
    """The examples of a process from its `first` on, `size` of them."""
    made = [examples[order.position(first + k, rows, batch)] for k in range(size)]
    usable = [each.view for each in made if each.view is not None]
    arrays = {key: np.stack([view[key] for view in usable]) for key in usable[0]} if usable else {}
    places = iter(range(len(usable)))
    listed = [
        _Listed(each.position, each.attempts, None if each.view is None else next(places))
        for each in made
    ]
    return arrays, listed


def _unpack(chunk: _Chunk) -> Iterator[Example]:
    # Grain's arrays free their memory when the last slice of them is gone.
    arrays = {key: np.asarray(array) for key, array in chunk[0].items()}
    for each in chunk[1]:
        view = None if each.place is None else {key: x[each.place] for key, x in arrays.items()}
        yield Example(each.position, each.attempts, view)
