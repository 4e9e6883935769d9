"""Records to global, sharded batches. The data position is one integer.

Batch b holds positions b * batch onwards of an endless sequence: one shuffle of all records after
the other. Which record stands at a position, and how it is augmented, depends on the seed alone, so
any number of hosts, devices and threads reads the same batches, and resuming is starting at b.
"""

import functools
import math
import sys
import threading
from collections.abc import Iterator, Sequence

import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Int32

from esam_jax import sharding
from esam_jax.config import DataConfig, PromptedConfig, RunConfig
from esam_jax.data import sources, views
from esam_jax.data.records import Source
from esam_jax.data.views import View, draws
from esam_jax.errors import DataError, DiskError, EsamError, MissingError, TrainingError
from esam_jax.typing import Batch

_ENOUGH_BROKEN = 10  # fewer broken records than this never stop a run
_MOST_EMPTY = 1000  # records read in a row without a usable mask before a run stops
_PREFETCH_BATCHES = 4  # made ahead of their use
_REPLACEMENT = 1  # keeps the choice of a replacement apart from the augmentation


def stream(
    cfg: RunConfig, mesh: Mesh, first_batch: int = 0, source: Source | None = None
) -> "Stream":
    """The endless batches of a run from `first_batch` on; raises before reading any picture.

    `source` is `cfg.data.source` where that is open already.
    """
    sharding.check_batch(cfg.batch, cfg.accumulate, mesh)
    source = sources.open_source(cfg.data.source) if source is None else source
    return Stream(source, cfg.data, cfg.seed, cfg.batch, sharding.batch(mesh), first_batch)


def abstract(cfg: RunConfig, mesh: Mesh) -> Batch:
    """Shapes, types and shardings of the batches of a run, without opening its source."""
    sharding.check_batch(cfg.batch, cfg.accumulate, mesh)
    return {
        name: jax.ShapeDtypeStruct((cfg.batch, *shape), dtype, sharding=sharding.batch(mesh))
        for name, (shape, dtype) in views.shapes(cfg.data.view).items()
    }


class Stream:
    """An iterator over global batches, each sharded over the mesh and one ahead of its use.

    `broken` names each record that could not be read, with the reason, and `empty` those without a
    usable mask; both are replaced by other records. TrainingError once too many are either.
    """

    def __init__(
        self,
        source: Source,
        config: DataConfig,
        seed: int,
        batch: int,
        placement: NamedSharding,
        first_batch: int = 0,
    ) -> None:
        self._batch, self._placement = batch, placement
        self._examples = Examples(source, config, seed)
        rows = local_rows(placement, batch)
        positions = grain.MapDataset.range(first_batch * len(rows), sys.maxsize)
        # Threads work on single examples, so that all of them help with the next batch.
        examples = max(_PREFETCH_BATCHES * len(rows), config.threads)  # or threads would idle
        reading = grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=examples)
        dataset = positions.map(lambda i: self._examples[position(i, rows, batch)])
        self._host = iter(dataset.to_iter_dataset(reading).batch(len(rows)))
        self._ahead: Batch | None = None

    @property
    def broken(self) -> dict[str, str]:
        return self._examples.broken()

    @property
    def empty(self) -> tuple[str, ...]:
        return self._examples.empty()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        ready = self._ahead if self._ahead is not None else self._put()
        # Copying to the device is asynchronous: it overlaps with the step on the batch before.
        self._ahead = self._put()
        return ready

    def _put(self) -> Batch:
        local = next(self._host)
        # The one copy to the devices that is meant; with several processes JAX calls it implicit.
        with jax.transfer_guard("allow"):
            return {
                key: jax.make_array_from_process_local_data(
                    self._placement, rows, (self._batch, *rows.shape[1:])
                )
                for key, rows in local.items()
            }

    def close(self) -> None:
        """Stop the threads; the stream cannot be read afterwards."""
        self._host.close()
        self._ahead = None

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


# ------------------------------------------------------------------------------------ positions


def local_rows(
    placement: NamedSharding, batch: int, devices: Sequence[jax.Device] | None = None
) -> tuple[int, ...]:
    """The rows of a global batch that these devices (default: this process's) hold, in order."""
    held = placement.addressable_devices if devices is None else set(devices)
    slices = placement.devices_indices_map((batch,))
    return tuple(sorted({row for d in held for row in range(*slices[d][0].indices(batch))}))


def position(index: int, rows: Sequence[int], batch: int) -> int:
    """Where in the endless sequence the index-th example of a process stands that holds `rows`."""
    step, slot = divmod(index, len(rows))
    return step * batch + rows[slot]


class Order:
    """The endless sequence of (epoch, record): every record once an epoch, in a new order.

    Grain's own shuffle needs no memory, but takes milliseconds an index for the small sets that
    people fine-tune on; this takes four bytes a record, and half a second an epoch of SA-1B.
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

    def _shuffle(self, epoch: int) -> Int32[np.ndarray, " X"]:
        rng = np.random.default_rng((self._seed, epoch))
        return rng.permutation(np.arange(self._records, dtype=np.int32))


# ------------------------------------------------------------------------------------- examples


class Examples:
    """position -> view, broken and empty records replaced; safe to call from many threads."""

    def __init__(self, source: Source, config: DataConfig, seed: int) -> None:
        self._source, self._config, self._seed = source, config, seed
        self._order = Order(len(source), seed)
        self._lock = threading.Lock()
        self._broken: dict[str, str] = {}
        self._empty: set[str] = set()
        self._reads = self._failures = self._empty_in_a_row = self._unanswered_in_a_row = 0

    def __getitem__(self, position: int) -> View:
        epoch, index = self._order[position]
        for candidate in self._candidates(epoch, index):
            view = self._view(epoch, candidate)
            if view is not None:
                return view
        raise TrainingError(self._nothing_left())

    def broken(self) -> dict[str, str]:
        with self._lock:
            return dict(self._broken)

    def empty(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(sorted(self._empty))

    def _candidates(self, epoch: int, index: int) -> Iterator[int]:
        """The record itself, then every other one once, in an order of its own."""
        yield index
        records = len(self._source)
        rng = draws.generator(self._seed, epoch, self._source.name(index), _REPLACEMENT)
        stride = int(rng.integers(1, records)) if records > 1 else 1
        while math.gcd(stride, records) > 1:  # coprime steps visit everything
            stride += 1
        for k in range(1, records):
            yield (index + k * stride) % records

    def _view(self, epoch: int, index: int) -> View | None:
        name = self._source.name(index)
        rng = draws.generator(self._seed, epoch, name)
        try:
            view = views.make(self._source.read(index), self._config.view, rng)
        except (DataError, MissingError, DiskError) as error:
            self._note_broken(name, error)
            return None
        with self._lock:
            self._reads += 1
            self._unanswered_in_a_row = 0
            if view is None:
                self._empty.add(name)
            self._empty_in_a_row = self._empty_in_a_row + 1 if view is None else 0
            stop = self._empty_in_a_row >= _MOST_EMPTY
        if stop:
            raise TrainingError(self._nothing_to_prompt_for())
        return view

    def _note_broken(self, name: str, error: EsamError) -> None:
        with self._lock:
            self._reads += 1
            self._failures += 1
            self._broken[name] = str(error)
            passes = isinstance(error, DiskError)
            self._unanswered_in_a_row = self._unanswered_in_a_row + 1 if passes else 0
            silent = self._unanswered_in_a_row >= min(_ENOUGH_BROKEN, len(self._source))
            share = self._failures / self._reads
            stop = len(self._broken) >= _ENOUGH_BROKEN and share > self._config.max_broken_share
        if silent:
            raise DiskError(f"the disk gives no record any more. The last one is {name}: {error}")
        if stop:
            raise (DiskError if passes else TrainingError)(
                f"{share:.1%} of {self._reads} records read are broken, but at most "
                f"max_broken_share={self._config.max_broken_share:.1%} may be; mend them or raise "
                f"it. The last one is {name}: {error}"
            )

    def _nothing_to_prompt_for(self) -> str:
        limits = self._config.view
        assert isinstance(limits, PromptedConfig)  # a crop is never without a view
        return (
            f"{_MOST_EMPTY} records in a row have no usable mask: widen "
            f"data.view.min_area_px={limits.min_area_px} and data.view.max_area={limits.max_area}, "
            "or choose data with masks of that size"
        )

    def _nothing_left(self) -> str:
        with self._lock:
            example = next(iter(self._broken.values()), "none has a mask of a usable area")
            return (
                f"no record of {len(self._source)} can be used: {len(self._broken)} are broken, "
                f"{len(self._empty)} have no usable mask ({example})"
            )
