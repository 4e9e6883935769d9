"""What the train loop costs: its steps a second against those of a bare loop over the same batches.

    python tests/bench/loop_overhead.py [--steps 2000] [--milliseconds 5] [--rounds 4]

Both sides run the very same compiled update on the very same batches, turn by turn in one process,
so that whatever else the machine does falls on both. The train loop is the real one, with its
checks of saves, its reading of every update, a line every ten updates and the guard of transfers.
Time outside its steps (start, the one save at the end) is left out: metrics.jsonl tells the rest.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from helpers import toy

from esam_jax import sharding, tasks
from esam_jax.config import SaveConfig
from esam_jax.train import loop
from esam_jax.typing import PerExample

WIDTH = 256  # of the product that makes an update last


def slow_task(products):
    """The toy task, whose update takes a while: a chain of products that change nothing."""
    task = toy.task()

    def loss(params, frozen, batch):
        each = task.loss(params, frozen, batch)
        start = jnp.full((WIDTH, WIDTH), 1e-6) * each.loss.sum()
        last = jax.lax.fori_loop(0, products, lambda i, x: jnp.tanh(x @ x), start)
        return PerExample(
            each.loss + 0.0 * jax.lax.stop_gradient(last).sum(), each.weight, each.metrics
        )

    return dataclasses.replace(task, loss=loss)


class Ready:
    """Batches that are on the device already, so that only the loop is measured."""

    broken = {}  # noqa: RUF012

    def __init__(self, batches):
        self._batches, self._i = batches, 0

    def __iter__(self):
        return self

    def __next__(self):
        self._i += 1
        return self._batches[self._i % len(self._batches)]

    def close(self):
        pass


def setup(cfg, task):
    mesh = sharding.make_mesh(cfg.mesh)
    step_fn = toy.jit_step(task, cfg, mesh, toy.abstract(task, cfg, mesh), {})
    place = sharding.batch(mesh)
    batches = [jax.device_put(toy.batch_of(0, i, cfg.batch), place) for i in range(16)]
    return step_fn, batches, lambda: toy.create(task, cfg, mesh)


def bare(step_fn, batches, fresh, steps):
    """Seconds of the shortest loop there is, of `steps` updates after a first one."""
    state = fresh()
    state, metrics = step_fn(state, {}, batches[0])
    jax.block_until_ready((state, metrics))
    begin = time.perf_counter()
    for i in range(steps):
        state, metrics = step_fn(state, {}, batches[i % len(batches)])
    jax.block_until_ready((state, metrics))
    return time.perf_counter() - begin


def whole(cfg, folder):
    """Seconds of the train loop for `cfg.steps` - 1 updates after a first one."""
    loop.run(cfg, folder, progress=False)
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]
    first = next(line["seconds"] for line in lines if "loss" in line)
    last = [line["seconds"] for line in lines if "loss" in line][-1]
    return last - first


def calibrate(cfg, wanted):
    """How many products make an update last that many seconds."""
    products = 64
    for _ in range(3):
        step_fn, batches, fresh = setup(cfg, slow_task(products))
        took = statistics.median(bare(step_fn, batches, fresh, 20) / 20 for _ in range(5))
        products = max(1, round(products * wanted / took))
    return products


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000, help="of each side, in each round")
    parser.add_argument("--milliseconds", type=float, default=5.0, help="of one update")
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    each = arguments.steps
    cfg = toy.config(
        steps=each + 1,
        log_every_steps=10,
        save=SaveConfig(every_steps=10**9),
        optim=dataclasses.replace(toy.config().optim, warmup_steps=2),
    )
    task = slow_task(calibrate(cfg, arguments.milliseconds / 1e3))
    step_fn, batches, fresh = setup(cfg, task)
    # The loop builds what it runs: it is given what the bare loop runs, compiled once.
    tasks.build = lambda cfg: task
    loop.loader.stream = lambda *args, **keys: Ready(batches)
    loop.jit_step = lambda *args, **keys: step_fn
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        whole(cfg, Path(folder) / "warm")
        for i in range(arguments.rounds):
            ours = whole(cfg, Path(folder) / str(i))
            theirs = bare(step_fn, batches, fresh, each)
            pairs.append((ours, theirs))
            shown = f"loop {ours / each * 1e3:.3f} ms, bare {theirs / each * 1e3:.3f} ms a step"
            print(shown, file=sys.stderr)
    ours, theirs = (sum(side) for side in zip(*pairs))
    result = {
        "steps": each * arguments.rounds,
        "bare_ms": round(theirs / each / arguments.rounds * 1e3, 4),
        "loop_ms": round(ours / each / arguments.rounds * 1e3, 4),
        "ratio": round(theirs / ours, 4),
        "median_ratio": round(statistics.median(b / a for a, b in pairs), 4),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "jax": jax.__version__,
        "numpy": np.__version__,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
