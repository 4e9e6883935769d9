"""Memory in use, of this process and of its devices: a leak is a slope in metrics.jsonl."""

import ctypes
import os
import re
import resource
import sys
from pathlib import Path

import jax

_STATM = Path("/proc/self/statm")  # Linux
_MEMINFO = Path("/proc/meminfo")


def resident_bytes() -> int:
    """Of this process; its peak where the system does not report the present value."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def give_back() -> None:
    """Returns to the system what this process has freed and glibc keeps; takes some milliseconds.

    Compiling a training step leaves a gigabyte of it. Other C libraries return it on their
    own, or have no such call.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def device_bytes() -> dict[str, int]:
    """In use now and at most so far, on the fullest local device; {} where none reports it."""
    stats = [each.memory_stats() or {} for each in jax.local_devices()]
    names = {"bytes_in_use": "device_bytes", "peak_bytes_in_use": "device_peak_bytes"}
    found = {
        ours: [each[theirs] for each in stats if theirs in each] for theirs, ours in names.items()
    }
    return {name: max(values) for name, values in found.items() if values}


def free_bytes(device: jax.Device) -> int | None:
    """What a device can still allocate: of a CPU, what its host has; None where nobody knows."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    try:
        found = re.search(r"^MemAvailable: *(\d+) kB", _MEMINFO.read_text(), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None


def metrics() -> dict[str, int]:
    """What a line of metrics.jsonl says about memory."""
    return {"host_bytes": resident_bytes(), **device_bytes()}
