"""How much the memory of a process grows with each save: `python tests/bench/save_memory.py`.

    python tests/bench/save_memory.py [--saves 240] [--arrays 501]

Saves a state of many small arrays again and again, and prints three sizes and their slopes over the
last third: resident memory, what glibc has allocated and not freed (mallinfo2), and objects that
Python holds in memory of its own. What is lost grows in one of the last two; what grows in the
first alone is kept for later by the allocator. TensorStore 0.1.69 to 0.1.86 keeps
some objects of Python for each array of a save.
"""

import argparse
import ctypes
import gc
import pathlib
import sys
import tempfile

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from helpers import toy

from esam_jax import sharding
from esam_jax.config import MeshConfig
from esam_jax.machine import memory
from esam_jax.train.checkpoint.manager import Checkpoints
from esam_jax.train.state import TrainState

_NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class _Account(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [(name, ctypes.c_size_t) for name in _NAMES.split()]


def in_use():
    """Bytes that are allocated and not freed, in all pools and in mappings of their own."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = _Account
    account = ask()
    return account.uordblks + account.hblkhd


def grow(folder, saves, arrays):
    place = sharding.replicated(sharding.make_mesh(MeshConfig(data=1)))
    tree = {f"array_{i:04d}": np.zeros((16, 16), np.float32) for i in range(arrays)}
    state = jax.device_put(TrainState(np.int32(0), tree, (), (), ()), place)
    sizes = []
    with Checkpoints(toy.config().save, pathlib.Path(folder), state) as checkpoints:
        for step in range(1, saves + 1):
            checkpoints.save(step, state)
            checkpoints.wait()
            checkpoints.check()
            gc.collect()
            sizes.append(
                (memory.resident_bytes() / 1e6, in_use() / 1e6, sys.getallocatedblocks() / 1e3)
            )
    names = ("resident, MB", "given out by glibc, MB", "objects of Python, thousands")
    return zip(names, zip(*sizes, strict=True), strict=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saves", type=int, default=240)
    parser.add_argument("--arrays", type=int, default=501)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for name, sizes in grow(scratch, args.saves, args.arrays):
            late = sizes[-(args.saves // 3) :]
            slope = np.polyfit(range(len(late)), late, 1)[0]
            print(
                f"{name}: {sizes[0]:.1f} after the first save, {sizes[-1]:.1f} after {args.saves}, "
                f"{slope:.4f} a save over the last {len(late)}"
            )


if __name__ == "__main__":
    main()
