"""`python toy_run.py JSON`: one process of a run of the real loop over the toy task, gloo and all.

The JSON holds `workdir`, and what a test wants to go differently: `steps`, `pause` (seconds before
each batch), `pause_of` ({"host": h, "seconds": s}: before each batch there), `sleep` ({"host": h,
"step": s}: never ends there), `warned` (a host that gets SIGTERM before its first batch), `lr`
({"host": h, "rate": r}), `default_cache` (a folder for compiled programs, which no variable
names), `constant` (a host whose program holds another number), `weights` (a host that reads other
frozen ones), `hang_seconds`, `log_every_steps`, `preflight` (instead of the run), `alert`, and
`peers`.
Prints, on stdout, one line of JSON about every file that Python opened to write.
"""

import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np

from esam_jax import sharding, tasks
from esam_jax.config import GuardConfig, MeshConfig, OptimConfig, PeersConfig, SaveConfig
from esam_jax.errors import EsamError
from esam_jax.processes import join
from esam_jax.train import loop, preflight
from helpers import toy


def stream(wishes):
    class Stream(toy.Stream):
        """Every host draws the whole batch and keeps its own rows."""

        def __next__(self):
            if wishes.pop("warned", None) == jax.process_index():
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)  # JAX tells the other hosts by and by
            here = wishes.get("sleep", {})
            if here == {"host": jax.process_index(), "step": self._step}:
                time.sleep(10_000)
            time.sleep(wishes.get("pause", 0))
            if wishes.get("pause_of", {}).get("host") == jax.process_index():
                time.sleep(wishes["pause_of"]["seconds"])
            batch = toy.batch_of(self._seed, self._step, self._batch)
            self._step += 1
            place = sharding.batch(self._mesh)
            with jax.transfer_guard("allow"):
                return {
                    name: jax.make_array_from_callback(value.shape, place, lambda i, v=value: v[i])
                    for name, value in batch.items()
                }

    return Stream


def main(wishes):
    """The exit code, as the command line gives it."""
    written = []
    number = int(os.environ.get("JAX_PROCESS_ID", 0))
    if "default_cache" in wishes:
        jax.config.update("jax_compilation_cache_dir", wishes["default_cache"])
    config = toy.config(
        steps=wishes.get("steps", 6),
        log_every_steps=wishes.get("log_every_steps", 1),
        alert=wishes.get("alert"),
        mesh=MeshConfig(),
        save=SaveConfig(every_steps=wishes.get("save", 2)),
        guard=GuardConfig(hang_seconds=wishes.get("hang_seconds", 600.0)),
    )
    if wishes.get("lr", {}).get("host") == number:
        config = toy.config(optim=OptimConfig(peak_lr=wishes["lr"]["rate"]), mesh=MeshConfig())
    noise = 0.25 if wishes.get("constant") == number else 0.125
    weights = {"norm": {"scale": np.full(8, 2.0 if wishes.get("weights") == number else 1.0)}}
    plain = toy.task(noise)
    task = dataclasses.replace(
        plain,
        frozen={"teacher": toy.frozen(weights)},
        example={**plain.example, "image": ((8, 8, 3), np.dtype(np.uint8))},  # it is tried out on
    )
    tasks.build = lambda cfg: task
    loop.loader.stream = stream(wishes)

    def note(event, details):
        if event == "open" and isinstance(details[0], str) and set(str(details[1])) & set("wax+"):
            written.append(details[0])

    sys.addaudithook(note)
    try:
        with join.joined(PeersConfig(**wishes.get("peers", {}))):
            if wishes.get("preflight"):
                checks = preflight.run(config, Path(wishes["workdir"]), devices=None)
                print(json.dumps([dataclasses.asdict(each) for each in checks]), flush=True)
                preflight.require(checks)
            else:
                loop.run(config, wishes["workdir"], progress=True)
    except EsamError as error:
        print("esam:", error, file=sys.stderr, flush=True)
        return error.exit_code
    finally:
        print(json.dumps(written), flush=True)
    return 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(json.loads(sys.argv[1])))
