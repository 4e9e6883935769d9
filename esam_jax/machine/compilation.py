"""Programs that JAX has compiled, or found in the persistent cache (machine/compile_cache.py)."""

import dataclasses

import jax

from esam_jax.machine import compile_cache


@dataclasses.dataclass(frozen=True)
class Counts:
    """Programs that were made ready to run, looked for in the cache, and found there."""

    programs: int = 0
    requests: int = 0
    hits: int = 0

    def since(self, before: "Counts") -> str:
        """What happened since: "off", "hit" (all were there) or "miss"."""
        if compile_cache.current() is None:
            return "off"
        requests, hits = self.requests - before.requests, self.hits - before.hits
        return "hit" if hits == requests else "miss"


_EVENTS = {
    "/jax/compilation_cache/compile_requests_use_cache": "requests",
    "/jax/compilation_cache/cache_hits": "hits",
}
_READY = "/jax/core/compile/backend_compile_duration"
_seen = dict.fromkeys(("programs", *_EVENTS.values()), 0)


def counts() -> Counts:
    """Of this process so far."""
    return Counts(**_seen)


def _listen(event: str, **details: object) -> None:
    if event in _EVENTS:
        _seen[_EVENTS[event]] += 1


def _listen_to_durations(event: str, duration_secs: float, **details: object) -> None:
    if event == _READY:
        _seen["programs"] += 1


jax.monitoring.register_event_listener(_listen)
jax.monitoring.register_event_duration_secs_listener(_listen_to_durations)
