"""Which record stands where in the endless sequence, and which rows of a batch a process reads."""

import threading
from collections.abc import Sequence
from concurrent import futures

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Int32

_LARGE = 100_000  # records, whose order takes longer to make than a thread to start


class Order:
    """The endless sequence of (epoch, record): every record once an epoch, in a new order.

    With `repeats`, each stands for so many examples in a row and an epoch, which is as long as
    ever, ends with those records that had a place in it: another share of them each time (repeated
    augmentation, arXiv:1901.09335; DeiT's RASampler, whose copies are of one batch, too).

    Grain's own shuffle needs no memory, but takes milliseconds per index for the small sets that
    people fine-tune on. This takes eight bytes per record: the order of an epoch, and that of the
    next one, which is made in the second half so that no epoch begins with a pause.
    """

    def __init__(self, records: int, seed: int, repeats: int = 1) -> None:
        self._records, self._seed, self._repeats = records, seed, repeats
        self._lock = threading.Lock()
        # Threads that read ahead may already be in the next epoch, so that two are kept.
        self._orders: dict[int, futures.Future[Int32[np.ndarray, " X"]]] = {}

    def __getitem__(self, position: int) -> tuple[int, int]:
        epoch, place = divmod(position, self._records)
        record = int(self._shuffled(epoch).result()[place // self._repeats])
        if 2 * place >= self._records >= _LARGE:
            self._shuffled(epoch + 1)
        return epoch, record

    def copy(self, position: int) -> int:
        """Which of the examples in a row of one record stands at a position, from 0."""
        return position % self._records % self._repeats

    def __reduce__(self) -> tuple[type["Order"], tuple[int, int, int]]:
        """Each process shuffles on its own: cheaper than sending the order of SA-1B."""
        return Order, (self._records, self._seed, self._repeats)

    def _shuffled(self, epoch: int) -> "futures.Future[Int32[np.ndarray, ' X']]":
        """The order of an epoch, which may be in the making."""
        with self._lock:
            if epoch not in self._orders:
                self._orders[epoch] = made = futures.Future()
                for older in tuple(self._orders)[:-2]:
                    del self._orders[older]
            else:
                return self._orders[epoch]
        if self._records >= _LARGE:
            make = threading.Thread(target=self._shuffle, args=(epoch, made), daemon=True)
            make.start()
        else:
            self._shuffle(epoch, made)
        return made

    def _shuffle(self, epoch: int, made: "futures.Future[Int32[np.ndarray, ' X']]") -> None:
        try:
            rng = np.random.default_rng((self._seed, epoch))
            made.set_result(rng.permutation(np.arange(self._records, dtype=np.int32)))
        except BaseException as error:  # of memory; or all threads would wait for ever
            made.set_exception(error)


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
