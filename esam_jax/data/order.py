"""Which record stands where in the endless sequence, and which rows of a batch a process reads."""

import functools
import threading
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Int32


class Order:
    """The endless sequence of (epoch, record): every record once an epoch, in a new order.

    Grain's own shuffle needs no memory, but takes milliseconds per index for the small sets that
    people fine-tune on; this takes four bytes per record, and half a second per epoch of SA-1B.
    """

    def __init__(self, records: int, seed: int) -> None:
        self._records, self._seed = records, seed
        self._lock = threading.Lock()
        # Threads that read ahead may already be in the next epoch.
        self._shuffled = functools.lru_cache(maxsize=2)(self._shuffle)

    def __getitem__(self, position: int) -> tuple[int, int]:
        epoch, place = divmod(position, self._records)
        with self._lock:
            return epoch, int(self._shuffled(epoch)[place])

    def __reduce__(self) -> tuple[type["Order"], tuple[int, int]]:
        """Each process shuffles on its own: cheaper than sending the order of SA-1B."""
        return Order, (self._records, self._seed)

    def _shuffle(self, epoch: int) -> Int32[np.ndarray, " X"]:
        rng = np.random.default_rng((self._seed, epoch))
        return rng.permutation(np.arange(self._records, dtype=np.int32))


def local_rows(
    placement: NamedSharding, batch: int, devices: Sequence[jax.Device] | None = None
) -> tuple[int, ...]:
    """The rows of a global batch that these devices (default: this process's) hold, in order."""
    held = placement.addressable_devices if devices is None else set(devices)
    slices = placement.devices_indices_map((batch,))
    return tuple(sorted({row for d in held for row in range(*slices[d][0].indices(batch))}))


def position(index: int, rows: Sequence[int], batch: int) -> int:
    """The position, in the endless sequence, of the index-th example of a process with `rows`."""
    step, slot = divmod(index, len(rows))
    return step * batch + rows[slot]
