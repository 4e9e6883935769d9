"""How much the memory of a process grows with each save: `python tests/bench/save_memory.py`.

    python tests/bench/save_memory.py [--saves 240] [--arrays 501] [--trim] [--leaking]

Saves a state of many small arrays again and again, and prints resident memory and the slope over
the last third. With `--trim`, Python's garbage is collected and glibc is told to give back what it
keeps after each save: what still grows is lost, the rest is only kept. With `--leaking`, Orbax
works as it does by itself, without `esam_jax.train.storage.leaks`.
"""

import argparse
import gc
import pathlib
import sys
import tempfile

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import toy

from esam_jax import sharding
from esam_jax.config import MeshConfig
from esam_jax.train.metrics import memory
from esam_jax.train.state import TrainState
from esam_jax.train.storage import leaks
from esam_jax.train.storage.checkpoint import Checkpoints


def grow(folder, saves, arrays, trim):
    place = sharding.replicated(sharding.make_mesh(MeshConfig(data=1)))
    tree = {f"array_{i:04d}": np.zeros((16, 16), np.float32) for i in range(arrays)}
    state = jax.device_put(TrainState(np.int32(0), tree, (), (), ()), place)
    sizes = []
    with Checkpoints(toy.config(), pathlib.Path(folder), state) as checkpoints:
        for step in range(1, saves + 1):
            checkpoints.save(step, state)
            checkpoints.wait()
            checkpoints.check()
            if trim:
                gc.collect()
                memory.give_back()
            sizes.append(memory.resident_bytes() / 1e6)
    return sizes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--saves", type=int, default=240)
    parser.add_argument("--arrays", type=int, default=501)
    parser.add_argument("--trim", action="store_true")
    parser.add_argument("--leaking", action="store_true")
    args = parser.parse_args()
    if args.leaking:
        leaks.stop = lambda: False
    with tempfile.TemporaryDirectory() as scratch:
        sizes = grow(scratch, args.saves, args.arrays, args.trim)
    late = sizes[-(args.saves // 3) :]
    slope = np.polyfit(range(len(late)), late, 1)[0]
    print(f"{sizes[0]:.1f} MB after the first save, {sizes[-1]:.1f} after {args.saves}: ", end="")
    print(f"{slope:.3f} MB a save over the last {len(late)}")


if __name__ == "__main__":
    main()
