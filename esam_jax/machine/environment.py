"""What a run ran on, for people who read its metrics years later."""

import importlib.metadata
import platform
import socket
from typing import Any

import jax
from jax.sharding import Mesh

import esam_jax
from esam_jax.machine import accelerators

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def versions() -> dict[str, str]:
    """Of Python, of this package and of those that the numbers depend on."""
    found = {"python": platform.python_version(), "esam_jax": esam_jax.__version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # put on the path by hand
            continue
    return found


def describe(mesh: Mesh) -> dict[str, Any]:
    """Versions, hosts, devices and mesh, ready for JSON."""
    device = mesh.devices.flat[0]
    return {
        "versions": versions(),
        "host": socket.gethostname(),
        "processes": jax.process_count(),
        "devices": mesh.devices.size,
        "device_kind": device.device_kind,
        "platform": device.platform,
        "mesh": dict(mesh.shape),
    }


def peak_flops(mesh: Mesh) -> float | None:
    """Of all devices together, by the data sheet; None where there is none."""
    sheet = accelerators.of(mesh.devices.flat[0])
    return None if sheet is None else sheet.flops * mesh.devices.size
