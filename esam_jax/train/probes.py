"""What devices and disks do, measured in seconds: the parts of a preflight that need no model."""

import os
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from esam_jax.errors import TrainingError

_TIMES = 3  # that an all-reduce is timed
_BLOCK = 1 << 20


def all_reduce(mesh: Mesh, size: int) -> float | None:
    """Median seconds of a sum of `size` bytes over all devices; None where there is only one.

    TrainingError if a device does not hold the right sum.
    """
    devices, axes = mesh.devices.size, mesh.axis_names
    if devices == 1:
        return None
    apart = NamedSharding(mesh, P(axes))
    make = jax.jit(
        lambda: jnp.broadcast_to(jnp.arange(1.0, devices + 1)[:, None], (devices, size // 4)),
        out_shardings=apart,
    )
    add = jax.jit(
        jax.shard_map(
            lambda x: jax.lax.psum(x[0], axes), mesh=mesh, in_specs=P(axes), out_specs=P()
        )
    )
    numbers = make()
    total = jax.block_until_ready(add(numbers))  # compiles, and connects the hosts
    durations = []
    for _ in range(_TIMES):
        begin = time.monotonic()
        total = jax.block_until_ready(add(numbers))
        durations.append(time.monotonic() - begin)
    _require_sum(total, devices * (devices + 1) / 2)
    return statistics.median(durations)


def _require_sum(total: jax.Array, right: int | float) -> None:
    for piece in total.addressable_shards:
        if not np.all(np.asarray(piece.data) == right):
            raise TrainingError(
                f"{piece.device} holds a wrong sum over all devices: that device, or its link to "
                "the others, is broken; take its host out"
            )


def bus_rate(size: int, seconds: float, devices: int) -> float:
    """Bytes a second through each device, as NCCL's tests count them for an all-reduce."""
    return 2 * (devices - 1) / devices * size / seconds


def disk_rate(folder: Path, size: int) -> float:
    """Bytes a second that reach the disk of a folder, or of the nearest above it that exists.

    The file has no name, so that nothing is left behind, however this ends. OSError as it comes.
    """
    block = os.urandom(_BLOCK)  # a disk may compress zeros
    with tempfile.TemporaryFile(dir=existing(folder), buffering=0) as file:
        begin = time.monotonic()
        for _ in range(max(1, size // _BLOCK)):
            file.write(block)
        os.fsync(file.fileno())
        took = time.monotonic() - begin
    return max(1, size // _BLOCK) * _BLOCK / took


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
