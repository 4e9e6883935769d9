"""Examples to global, sharded batches. The data position is one integer.

Batch b holds positions b * batch onwards of an endless sequence: one shuffle of all records after
the other. Which record stands at a position, and how it is augmented, depends on the seed alone, so
any number of hosts, devices, worker processes and threads reads the same batches, and resuming is
starting at b.
"""

from collections.abc import Iterator

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from esam_jax import sharding
from esam_jax.config import DataConfig
from esam_jax.data import order, workers
from esam_jax.data.examples import Examples, Tally
from esam_jax.data.findings import Findings
from esam_jax.data.records import Source
from esam_jax.typing import Batch

_PREFETCH_BATCHES = 4  # made ahead of their use


def stream(
    source: Source,
    config: DataConfig,
    *,
    seed: int,
    batch: int,
    mesh: Mesh,
    first_batch: int = 0,
) -> "Stream":
    """The endless batches of a source from `first_batch` on, viewed as `config.view` says.

    `batch` is the global size; `sharding.check_batch` says whether the mesh can split it.
    """
    examples = Examples(source, config.view, seed, config.repeats)
    return Stream(examples, config, batch, sharding.batch(mesh), first_batch)


class Stream:
    """An iterator over global batches, each sharded over the mesh and one ahead of its use.

    `broken` names each record that could not be read, with the reason, and `empty` those without
    anything to show; both are replaced by other records. Reading raises TrainingError or DiskError
    when there are too many of either (`Tally`). `findings` is what was left out of the records that
    are used, or assumed about them.
    """

    def __init__(
        self,
        examples: Examples,
        config: DataConfig,
        batch: int,
        placement: NamedSharding,
        first_batch: int = 0,
    ) -> None:
        self._batch, self._placement = batch, placement
        self._tally = Tally(examples, config.max_broken_share)
        self._rows = rows = order.local_rows(placement, batch)
        self._examples = workers.read(
            examples,
            config,
            rows=rows,
            batch=batch,
            ahead=_PREFETCH_BATCHES * len(rows),
            first=first_batch * len(rows),
        )
        self._ahead: Batch | None = None

    @property
    def broken(self) -> dict[str, str]:
        return dict(self._tally.broken)

    @property
    def findings(self) -> Findings:
        return self._tally.findings

    @property
    def empty(self) -> tuple[str, ...]:
        return tuple(sorted(self._tally.empty))

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        ready = self._ahead if self._ahead is not None else self._put()
        # Copying to the device is asynchronous: it overlaps with the step on the batch before.
        self._ahead = self._put()
        return ready

    def _put(self) -> Batch:
        made = [self._tally.view_of(next(self._examples)) for _ in self._rows]
        local = {key: np.stack([view[key] for view in made]) for key in made[0]}
        # The one copy to the devices that is meant; with several processes JAX calls it implicit.
        with jax.transfer_guard("allow"):
            return {
                key: jax.make_array_from_process_local_data(
                    self._placement, rows, (self._batch, *rows.shape[1:])
                )
                for key, rows in local.items()
            }

    def awaited(self) -> str:
        """What the next batch waits for, in words, should it not come."""
        return self._examples.awaited()

    def close(self) -> None:
        """Stops its threads and worker processes; the stream cannot be read afterwards."""
        self._examples.close()
        self._ahead = None

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
