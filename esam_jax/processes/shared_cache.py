"""Compiled programs are kept where every host finds them, or not at all.

On GPUs XLA times kernels for a program in all processes together: each tries some and waits for
what the others found. A process that finds the program in its cache tries none, and those that do
not would wait for it until the watchdog ends them, at every start anew. JAX writes the cache from
process 0 alone, so that folders which only have the same name are such caches.
"""

import contextlib
import sys
import time
import uuid

from etils import epath
from jax._src import distributed  # its key-value store has no public name

from esam_jax.machine import compile_cache
from esam_jax.processes import join

_LATE_SECONDS = 5.0  # that a network file system may show a new file late
_NONE = "none"
_MARK, _SEEN = "esam_jax/one_cache/mark", "esam_jax/one_cache/seen"


def require() -> None:
    """Turns the cache off in all processes unless they share its folder; before any compilation.

    Every process must call it. The first says so on stderr.
    """
    client, me = distributed.global_state.client, distributed.global_state.process_id
    if client is None:
        return
    folder = compile_cache.current()
    if me == 0:
        client.key_value_set(_MARK, _leave_mark(folder), True)
    join.meet("the look for the compilation cache")
    mark = client.key_value_try_get(_MARK)
    sees = folder is not None and mark != _NONE and _appears(epath.Path(folder) / mark)
    client.key_value_set(f"{_SEEN}/{me}", "yes" if sees else "no", True)
    join.meet("the comparison of what they saw")
    seen = {int(key.rsplit("/", 1)[-1]): said for key, said in client.key_value_dir_get(_SEEN)}
    blind = sorted(number for number, said in seen.items() if said == "no")
    if blind:
        compile_cache.off()
    if me > 0 or folder is None:
        return
    with contextlib.suppress(Exception):
        (epath.Path(folder) / mark).unlink()
    if blind:
        numbers = ", ".join(map(str, blind))
        fault = "cannot be written" if mark == _NONE else f"is not seen by host {numbers}"
        print(
            f"esam: the compilation cache {folder} of host 0 {fault}: no host keeps what it "
            f"compiles; name a folder that all of them share ({compile_cache.SWITCH})",
            file=sys.stderr,
        )


def _leave_mark(folder: str | None) -> str:
    """The name of a new file in the folder, or _NONE where there is none to be."""
    name = f".seen_by_all_hosts.{uuid.uuid4().hex}"
    if folder is None:
        return _NONE
    try:
        epath.Path(folder).mkdir(parents=True, exist_ok=True)
        (epath.Path(folder) / name).touch()
    except Exception:  # buckets have errors of their own
        return _NONE
    return name


def _appears(file: epath.Path) -> bool:
    """Whether a file is there, or comes."""
    end = time.monotonic() + _LATE_SECONDS
    while not (there := _exists(file)) and time.monotonic() < end:
        time.sleep(0.1)
    return there


def _exists(file: epath.Path) -> bool:
    try:
        return file.exists()
    except Exception:
        return False
