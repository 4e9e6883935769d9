"""The barrier of a save, which ends at once for all hosts when one cannot write its part.

Orbax takes its barriers for a save from `AsyncOptions.barrier_sync_fn`. With plain ones, a host
whose part fails skips to a later barrier while the others wait at an earlier one, each until its
timeout of minutes. Here hosts meet in order of arrival and compare which barrier each one is at.
"""

import itertools
import threading

import jax

from esam_jax.processes import coordinator

_FOLDER = "esam_jax/save"
_rounds = itertools.count()  # of this process: alike on all, since all begin the same saves


class CalledOffError(OSError):
    """A host could not write its part of the save."""


class SaveBarrier:
    """The barriers of one save after another; one thread at a time may use it.

    In a single process it does nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._round = self._met = 0
        self._over = True

    def begin(self) -> None:
        """A new save; every host must begin it."""
        with self._lock:
            self._round, self._met, self._over = next(_rounds), 0, False

    def __call__(self, *, key: str, timeout_ms: int) -> None:
        """Waits for all hosts; CalledOffError on all of them if they come with different keys.

        Returns at once after that, until the next save. What JAX raises when a host does not come
        in time is passed on.
        """
        service, me = coordinator.client(), jax.process_index()
        with self._lock:
            if service is None or self._over:
                return
            place, self._met = f"{_FOLDER}/{self._round}/{self._met}", self._met + 1
        service.key_value_set(f"{place}/{me}", key)
        try:
            service.wait_at_barrier(place, timeout_ms)
        except jax.errors.JaxRuntimeError:
            self._over = True
            raise
        keys = coordinator.by_process(service.key_value_dir_get(f"{place}/"))
        if len(set(keys.values())) > 1:
            self._over = True
            at = ", ".join(f"host {host} at {keys[host]}" for host in sorted(keys))
            raise CalledOffError(f"a host could not write its part ({at})")
