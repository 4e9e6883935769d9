"""Every mesh of eight devices, accumulation and rematerialisation, against one device alone.

    PYTHONPATH=.:tests:tests/sharded python tests/sharded/matrix.py [--task segment] [--processes]

Trains each layout for twenty updates on real data and prints the largest relative difference of its
losses; fails when one is above `BOUND`, or when a row of a batch holds another picture. With
`--processes`, real ones: two of two and of four devices, four of one and of two; or those named, as
in `--processes 4x2`.
"""

import argparse
import dataclasses
import itertools
import json
import sys

import jax
import layouts
from helpers import processes
from layouts import Layout

# Sums run in another order on another mesh. One float32 operation rounds by 6e-8, a sum of the some
# hundred terms here by ten times that, and twenty updates add up: Adam divides a gradient by its
# own size, so that a relative error of the gradient becomes one of the step, never a larger one.
BOUND = 5e-6
PROCESSES = ("2x2", "2x4", "4x1", "4x2")  # x devices of each


def shapes(devices):
    """Every (data, fsdp, tensor) whose product is `devices`."""
    sizes = [n for n in range(1, devices + 1) if devices % n == 0]
    return [s for s in itertools.product(sizes, repeat=3) if s[0] * s[1] * s[2] == devices]


def on_eight_devices(task):
    """Every mesh of eight with every accumulation, with and without rematerialisation."""
    for data, fsdp, tensor in shapes(8):
        for accumulate, remat in itertools.product((1, 2, 4), ("none", "blocks")):
            yield Layout(
                task=task,
                data=data,
                fsdp=fsdp,
                tensor=tensor,
                accumulate=accumulate,
                remat=remat,
            )
    for devices in (1, 2, 4):  # of the eight that are there
        for data, fsdp, tensor in shapes(devices):
            yield Layout(task=task, data=data, fsdp=fsdp, tensor=tensor)


def over_processes(task, devices):
    """Every mesh of that many devices, with one accumulation each."""
    for (data, fsdp, tensor), accumulate in zip(shapes(devices), itertools.cycle((1, 2, 4))):
        yield Layout(task=task, data=data, fsdp=fsdp, tensor=tensor, accumulate=accumulate)


def in_processes(runs, count, devices, steps=layouts.STEPS, timeout=900):
    """What `layouts.train` gives for each run, in that many processes of so many devices.

    `timeout`: seconds for each run on average; compiling for many devices on few cores takes most.
    """
    request = json.dumps([steps, [dataclasses.asdict(run) for run in runs]])
    started = processes.start([layouts.__file__, request], count, devices)
    for told in layouts.told(processes.finish(started, timeout=timeout * len(runs))):
        losses, rows = zip(*told)
        assert all(each == losses[0] for each in losses)
        yield losses[0], layouts.join(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=("sami", "segment", "toy"), default="sami")
    parser.add_argument("--processes", nargs="*", metavar="NxM", help="N processes of M devices")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    alone, rows = layouts.train(Layout(task=options.task))
    _, expected = layouts.expected_rows(layouts.config(Layout(task=options.task)), 0, layouts.STEPS)
    assert rows == expected
    print("| processes x devices | data | fsdp | tensor | accumulate | remat | difference |")
    print("|---|---|---|---|---|---|---|")
    worst = 0.0

    def tell(where, run, losses, seen):
        nonlocal worst
        assert seen == rows, f"{run} read other records"
        found = layouts.difference(losses, alone)
        worst = max(worst, found)
        cells = (where, run.data, run.fsdp, run.tensor, run.accumulate, run.remat, f"{found:.1e}")
        print(f"| {' | '.join(map(str, cells))} |", flush=True)

    if options.processes is not None:
        for each in options.processes or PROCESSES:
            count, devices = map(int, each.split("x"))
            runs = list(over_processes(options.task, count * devices))
            for run, result in zip(runs, in_processes(runs, count, devices), strict=True):
                tell(f"{count} x {devices}", run, *result)
    else:
        for run in on_eight_devices(options.task):
            tell("1 x 8", run, *layouts.train(run))
    print(f"\nlargest difference {worst:.1e}, bound {BOUND:.0e}")
    return int(worst > BOUND)


if __name__ == "__main__":
    sys.exit(main())
