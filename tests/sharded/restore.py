"""A run that changes its mesh and its number of processes at checkpoints: 2 x 2, another, 2 x 2.

    PYTHONPATH=.:tests:tests/sharded python tests/sharded/restore.py [--task sami|segment|toy]

Goes through the train loop in real processes, and prints how far the ten losses after each restore
are from those of a run that stayed on 2 x 2. With other arguments it is one of those processes.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import sys
import tempfile
import zlib
from pathlib import Path
from unittest import mock

import jax
import layouts
import numpy as np
from helpers import processes
from layouts import Layout

from esam_jax import sharding
from esam_jax.train import loop
from esam_jax.train.telemetry import log

# Of a loss, absolute and relative: some ten roundings of float32, since layouts differ by the order
# of their sums.
BOUND = 1e-6
TOTAL = 100  # updates that no leg reaches: what it leaves is a checkpoint and no model
HOME = Layout(data=2, fsdp=2)  # on two processes of two devices
OTHERS = {  # (processes, devices of each)
    (4, 1): Layout(fsdp=4),
    (1, 8): Layout(data=2, fsdp=2, tensor=2),
    (1, 1): Layout(),
}


def leg(workdir, layout, until, every=10):
    """Goes on with the run in `workdir` until it has done `until` updates, which are saved.

    What was read and passed through checkpoints: {"rows": for each batch, row -> checksum,
    "restored" and "saved": path -> checksum of the state, the last that was saved}.
    """
    told = {"rows": [], "restored": None, "saved": None}
    restore, save = loop.Checkpoints.restore, loop.Checkpoints.save

    def restoring(self, *args, **keywords):
        state = restore(self, *args, **keywords)
        told["restored"] = checksums(state)
        return state

    def saving(self, step, state, *args, **keywords):
        told["saved"] = checksums(state)
        return save(self, step, state, *args, **keywords)

    cfg = layouts.config(layout, TOTAL, every=every)
    first = max((int(p.name) for p in (workdir / "checkpoints").glob("*[0-9]")), default=0)
    with (
        layouts.tasks_of(layout),
        layouts.watch(until - first) as opened,
        mock.patch.object(loop.Checkpoints, "restore", restoring),
        mock.patch.object(loop.Checkpoints, "save", saving),
        contextlib.suppress(EOFError),
    ):
        loop.run(cfg, workdir, progress=False)
    told["rows"] = opened[0].rows
    return told


def checksums(state):
    """Path -> checksum of the whole array, wherever its pieces are."""
    with jax.transfer_guard("allow"):
        mesh = jax.tree.leaves(state)[0].sharding.mesh
        leaves = jax.tree_util.tree_leaves_with_path(sharding.gather(state, mesh))
    return {sharding.name(path): zlib.crc32(np.ascontiguousarray(leaf)) for path, leaf in leaves}


def leg_in_processes(workdir, layout, until, count, devices, every=10):
    """As `leg`, in that many processes of so many devices, with the rows of all together."""
    request = json.dumps([str(workdir), dataclasses.asdict(layout), until, every])
    started = processes.start([__file__, "--process", request], count, devices)
    outputs = processes.finish(started, timeout=1500)
    (told,) = layouts.told(outputs)
    for each in told:
        assert (each["restored"], each["saved"]) == (told[0]["restored"], told[0]["saved"])
    return told[0] | {"rows": layouts.join([each["rows"] for each in told])}


def losses(workdir):
    """Update -> loss."""
    lines = log.read(workdir / log.METRICS_FILE)
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def compare(workdir, undisturbed, first):
    """The largest difference of the losses after update `first`, absolute and relative."""
    ours, theirs = losses(workdir), losses(undisturbed)
    pairs = [(ours[step], theirs[step]) for step in ours if step > first]
    assert pairs
    absolute = [abs(a - b) for a, b in pairs]
    return max(absolute), max(d / abs(b) for d, (_, b) in zip(absolute, pairs))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=("sami", "segment", "toy"), default="sami")
    parser.add_argument("--process")
    options = parser.parse_args()
    if options.process:
        workdir, fields, until, every = json.loads(options.process)
        jax.distributed.initialize(
            num_processes=int(os.environ["JAX_NUM_PROCESSES"]),
            process_id=int(os.environ["JAX_PROCESS_ID"]),
        )
        layouts.tell(leg(Path(workdir), Layout(**fields), until, every))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return journey(Path(folder), options.task)


def journey(folder, task):
    """Prints the table; 1 when a loss is further away than `BOUND`."""
    home = dataclasses.replace(HOME, task=task)
    start = leg_in_processes(folder / "start", home, 10, 2, 2)
    shutil.copytree(folder / "start", folder / "stayed")
    stayed = leg_in_processes(folder / "stayed", home, 30, 2, 2)
    assert stayed["restored"] == start["saved"]
    print("| at update 10 | losses 11 to 20 | at update 20 | losses 21 to 30 |")
    print("|---|---|---|---|", flush=True)
    worst = 0.0
    for (count, devices), other in OTHERS.items():
        run = folder / f"{count}x{devices}"
        shutil.copytree(folder / "start", run)
        away = leg_in_processes(run, dataclasses.replace(other, task=task), 20, count, devices)
        assert away["restored"] == start["saved"]
        there = compare(run, folder / "stayed", 10)
        back = leg_in_processes(run, home, 30, 2, 2)
        assert back["restored"] == away["saved"]
        assert away["rows"] + back["rows"] == stayed["rows"]
        again = compare(run, folder / "stayed", 20)
        shown = [f"{a:.1e} ({r:.1e} of it)" for a, r in (there, again)]
        print(f"| 2x2 to {count}x{devices} | {shown[0]} | {count}x{devices} to 2x2 | {shown[1]} |")
        worst = max(worst, *there, *again)
    print(f"\nbit-equal at every restore, same records; largest {worst:.1e}, bound {BOUND:.0e}")
    return int(worst > BOUND)


if __name__ == "__main__":
    sys.exit(main())
