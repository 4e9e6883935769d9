"""The conditions of a measurement: device, versions, load, and the memory it took."""

import importlib.metadata
import os
import re
import resource
import sys
from pathlib import Path
from typing import Any

import jax

from esam_jax.bench import baselines
from esam_jax.machine import accelerators, environment, memory

_DRIVER = Path("/proc/driver/nvidia/version")


def machine() -> dict[str, Any]:
    """Device, cores and load, as reported with the results."""
    device = jax.devices()[0]
    sheet = accelerators.of(device)
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "data_sheet": None if sheet is None else sheet.name,
        "cores": baselines.cores(),
        "load": os.getloadavg()[0],  # of the last minute: above the cores, times are too long
    }


def torch_threads() -> int | None:
    """Of PyTorch, where it is loaded."""
    torch = sys.modules.get("torch")
    return None if torch is None else torch.get_num_threads()


def versions() -> dict[str, str]:
    """Of Python and the packages; of torch and transformers where they are loaded."""
    found = environment.versions()
    for name in ("torch", "transformers"):
        if name in sys.modules:
            found[name] = importlib.metadata.version(name)
    for each in importlib.metadata.distributions():
        name = (each.metadata["Name"] or "").lower()
        if re.fullmatch(r"nvidia-cudnn-cu\d+|libtpu", name):
            found[name] = each.version
    if _DRIVER.is_file():
        driver = re.search(r"\d+\.\d[\d.]*", _DRIVER.read_text())
        found["driver"] = driver[0] if driver else "unknown"
    return found


def peak_memory() -> dict[str, int]:
    """Bytes, the most that this process has held so far, on the host and on its fullest device."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"host": most if sys.platform == "darwin" else most * 1024}
    device = memory.device_bytes().get("device_peak_bytes")
    return found if device is None else {**found, "device": device}
