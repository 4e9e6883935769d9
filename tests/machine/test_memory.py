"""The memory of a run: what its metrics say, and what is given back to the system."""

import ctypes
import gc
import os
import pathlib
from unittest import mock

import jax
import numpy as np
import pytest

from esam_jax.machine import memory


def test_metrics_tell_what_is_resident():
    gc.collect()
    memory.give_back()  # what earlier tests left, else it goes while this one measures
    before = memory.metrics()["host_bytes"]
    kept = np.ones(32_000_000)
    assert memory.metrics()["host_bytes"] - before == pytest.approx(kept.nbytes, rel=0.1)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_what_is_free_between_what_is_used_is_given_back():
    pieces = [bytearray(100_000) for _ in range(2000)]
    pieces = pieces[::50]  # each holds its place among free ones
    kept = memory.resident_bytes()
    memory.give_back()
    assert memory.resident_bytes() < kept - 100e6
    assert len(pieces) == 40


def test_free_memory_is_the_devices_own_or_that_of_its_host(monkeypatch: pytest.MonkeyPatch):
    full = mock.Mock(spec=jax.local_devices()[0])
    full.memory_stats.return_value = {"bytes_limit": 100, "bytes_in_use": 30}
    assert memory.free_bytes(full) == 70
    of_host = memory.free_bytes(jax.local_devices()[0])
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert of_host is None or 0 < of_host <= total
    monkeypatch.setattr(memory, "_MEMINFO", pathlib.Path("/nowhere"))
    assert memory.free_bytes(jax.local_devices()[0]) is None
