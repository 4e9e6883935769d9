"""How long a save of about 1 GB holds up the training: `python tests/bench/save_blocking.py DIR`.

Prints one line a save: seconds that `save` blocks, the part of it that sums take, seconds of the
next update (which donates the state that is being written) beside one without a save, and seconds
until the checkpoint is committed.
"""

import pathlib
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from helpers import toy

from esam_jax import sharding
from esam_jax.config import MeshConfig
from esam_jax.train.checkpoint import checksums
from esam_jax.train.checkpoint.manager import Checkpoints
from esam_jax.train.state import TrainState


def state():
    """Parameters and two moments of a network of 89 M parameters, as ViT-B has."""
    rng = np.random.default_rng(0)
    shapes = {"mlp": (768, 3072), "out": (3072, 768), "attn": (768, 2304), "norm": (768,)}

    def weights():
        return {
            f"block_{i:02d}": {
                name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()
            }
            for i in range(14)
        }

    place = sharding.replicated(sharding.make_mesh(MeshConfig(data=1)))
    fresh = TrainState(np.int32(0), weights(), (weights(), weights()), (), ())
    return jax.device_put(fresh, place)


def seconds(function, *arguments):
    begin = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    return time.perf_counter() - begin, result


def main(folder, saves=5):
    update = jax.jit(
        lambda tree: jax.tree.map(lambda x: x + jnp.ones_like(x), tree), donate_argnums=0
    )
    now = update(state())
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(now))
    print(
        f"{size / 1e9:.2f} GB in {len(jax.tree.leaves(now))} arrays, {jax.devices()[0].device_kind}"
    )
    with Checkpoints(toy.config().save, pathlib.Path(folder), now) as checkpoints:
        for step in range(1, saves + 1):
            alone, now = seconds(update, now)
            summing, _ = seconds(checksums.of, now)
            blocking, _ = seconds(checkpoints.save, step, now)
            after, now = seconds(update, now)
            committed, _ = seconds(checkpoints.wait)
            print(
                f"save {step}: blocks {blocking:.3f} s, of which sums {summing:.3f} s; next update "
                f"{after:.3f} s (without a save {alone:.3f} s); committed after {committed:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(scratch)
