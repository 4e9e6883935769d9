"""A barrier that one host can call off: the others then leave it at once, and know why.

A host whose part of a checkpoint cannot be written never reaches the barrier after it. With a plain
barrier all others would wait there until its timeout, and training with them.
"""

import itertools
import threading

import jax
from jax._src import distributed  # its key-value store has no public name

_FOLDER = "esam_jax/rendezvous"
_rounds = itertools.count()  # of this process: alike on all, since all begin the same rounds


class CalledOffError(OSError):
    """Another host could not do its part."""


class Rendezvous:
    """Where the hosts meet, any number of times in a round; called as Orbax calls its barriers.

    One thread at a time may use it. In a single process it does nothing.
    """

    def __init__(self, timeout_seconds: int) -> None:
        """The longest that a host which calls off waits for the others to learn of it."""
        self._timeout_ms = 1000 * timeout_seconds
        self._lock = threading.Lock()
        self._round = self._met = 0
        self._over = True

    def begin(self) -> None:
        """A new round; every host must begin it."""
        with self._lock:
            self._round, self._met, self._over = next(_rounds), 0, False

    def __call__(self, *, key: str, timeout_ms: int) -> None:
        """Waits for all hosts; CalledOffError when one of them has called the round off.

        `key` is Orbax's name of the barrier, for the error. What JAX raises when a host does
        not come in time goes through.
        """
        if (client := distributed.global_state.client) is None:
            return
        with self._lock:
            place, self._met = self._place(), self._met + 1
        try:
            client.wait_at_barrier(place, timeout_ms)
        except jax.errors.JaxRuntimeError:
            self._over = True
            raise
        if reasons := client.key_value_dir_get(f"{place}/off/"):
            self._over = True
            host, why = min((int(name.rsplit("/", 1)[-1]), why) for name, why in reasons)
            raise CalledOffError(f"called off by host {host} before {key}: {why}")

    def call_off(self, why: str) -> None:
        """Ends the round for all hosts, which meet here a last time; nothing when it is over."""
        client = distributed.global_state.client
        with self._lock:
            if self._over or client is None:
                return
            self._over = True
            place = self._place()
        # Of this meeting: whoever is slow to leave the one before must not miss it.
        client.key_value_set(f"{place}/off/{jax.process_index()}", why or "no reason given", True)
        client.wait_at_barrier(place, self._timeout_ms)

    def _place(self) -> str:
        """The name of the next meeting."""
        return f"{_FOLDER}/{self._round}/{self._met}"
