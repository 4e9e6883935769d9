"""A long run in small: whether memory grows, or files and threads are left behind.

    MALLOC_ARENA_MAX=1 python tests/bench/soak.py [--seconds 3600] [--workdir DIR]

Trains the nano model on drawn scenes, with a checkpoint about every 5 minutes and an evaluation
about every one, and ends it by SIGTERM. The process is inspected once a second; the first third
counts as warm-up. Exit code 1 when resident memory grows by 1 MB an hour or more, beside what
TensorStore keeps of each save (save_memory.py), or when file descriptors are not constant: as
saving and evaluating take some of both for a moment, the least of each minute or stretch counts.

The purpose is to find memory that is lost, and glibc hides it: it has a pool for each thread, a
save has many threads, and each pool grows for hours to its largest need. The variable makes that
one pool. For the same reason another process compiles: the memory that this frees would be reused.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from esam_jax.config import (
    DataConfig,
    EvaluateConfig,
    MeshConfig,
    OptimConfig,
    PromptedConfig,
    RunConfig,
    SaveConfig,
    ScenesConfig,
    SegmentConfig,
)
from esam_jax.machine import memory
from esam_jax.train import loop
from esam_jax.train.telemetry import log

SAVE_SECONDS, EVALUATE_SECONDS = 300, 60
SHORT_SECONDS = 120  # of the run that compiles
MB_PER_SAVE = 0.3  # that TensorStore keeps, of 500 arrays
MOST_MB_PER_HOUR = 1.0 + MB_PER_SAVE * 3600 / SAVE_SECONDS
WARM_UP = 1 / 3
STRETCHES = 6  # of the time after warm-up, for what comes and goes with saves


def config(steps, save_every, evaluate_every):
    return RunConfig(
        name="soak",
        task=SegmentConfig(model="efficientsam_nano"),
        data=DataConfig(
            source=ScenesConfig(),
            view=PromptedConfig(image_px=64, masks=4),
            threads=2,
        ),
        optim=OptimConfig(peak_lr=1e-4),
        steps=steps,
        batch=8,
        mesh=MeshConfig(data=1),
        evaluate=EvaluateConfig(
            source=ScenesConfig(split="heldout"),
            images=8,
            masks_per_image=4,
            every_steps=evaluate_every,
        ),
        log_every_steps=10,
        save=SaveConfig(every_steps=save_every),
    )


class Watch:
    """Looks at this process once a second, from a thread."""

    def __init__(self):
        self.samples = []  # (seconds, resident bytes, file descriptors, threads)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._end.set()
        self._thread.join()

    def _run(self):
        begin = time.monotonic()
        while not self._end.wait(1.0):
            files = len(os.listdir("/proc/self/fd"))
            sample = (memory.resident_bytes(), files, threading.active_count())
            self.samples.append((time.monotonic() - begin, *sample))


def end_after(seconds, cfg, folder):
    """A run that is told to end."""
    end = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
    end.start()
    with contextlib.suppress(loop.Terminated):
        loop.run(cfg, folder, progress=False)


def short(folder):
    """Prints the updates in a second, of a run that does all that the long one does."""
    end_after(SHORT_SECONDS, config(10**8, 100, 100), folder)
    lines = [line for line in log.read(folder / log.METRICS_FILE) if "step_seconds" in line]
    print(1 / float(np.median([line["step_seconds"] for line in lines[-10:]])))


def soak(folder, seconds, rate):
    """The samples of a run that is told to end after so many seconds."""
    cfg = config(10**8, max(1, round(SAVE_SECONDS * rate)), max(1, round(EVALUATE_SECONDS * rate)))
    with Watch() as watch:
        end_after(seconds, cfg, folder)
    return watch.samples


def verdict(samples):
    """The figures after warm-up, and whether they pass."""
    times, resident, files, threads = (np.array(column, float) for column in zip(*samples))
    kept = times >= times[-1] * WARM_UP
    minutes = np.array_split(
        resident[kept] / 1e6, max(2, round((times[kept][-1] - times[kept][0]) / 60))
    )
    least = [part.min() for part in minutes]
    hours = np.linspace(times[kept][0], times[kept][-1], len(least)) / 3600
    slope = np.polyfit(hours, least, 1)[0]
    stretches = [int(part.min()) for part in np.array_split(files[kept], STRETCHES)]
    passed = slope < MOST_MB_PER_HOUR and len(set(stretches)) == 1
    return passed, {
        "seconds": round(float(times[-1]), 1),
        "samples": int(kept.sum()),
        "mb_per_hour": round(float(slope), 3),
        "resident_mb_least_of_minutes": [round(float(each), 1) for each in least],
        "resident_mb_most": round(float(resident[kept].max() / 1e6), 1),
        "file_descriptors": {
            "first": int(files[kept][0]),
            "last": int(files[kept][-1]),
            "most": int(files[kept].max()),
            "fewest_of_stretches": stretches,
        },
        "threads": {
            "first": int(threads[kept][0]),
            "last": int(threads[kept][-1]),
            "most": int(threads[kept].max()),
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--workdir", type=Path, help="keeps the run; default: a folder that goes")
    parser.add_argument("--compiled", type=Path, help=argparse.SUPPRESS)  # of the short run
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        compiled = arguments.compiled or Path(scratch)
        jax.config.update("jax_compilation_cache_dir", str(compiled))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        if arguments.compiled is not None:
            return short(arguments.workdir)
        command = [sys.executable, __file__, "--compiled", scratch, "--workdir", f"{scratch}/short"]
        rate = float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        folder = arguments.workdir or Path(scratch) / "soak"
        samples = soak(folder, arguments.seconds, rate)
        events = [line.get("event") for line in log.read(folder / log.METRICS_FILE)]
        steps = log.merged(folder / log.METRICS_FILE)["step"]
    passed, figures = verdict(samples)
    figures |= {"steps": steps, "saves": events.count("save")}
    figures |= {"evaluations": events.count("evaluate"), "jax": jax.__version__}
    figures |= {"pools": os.environ.get("MALLOC_ARENA_MAX", "glibc's own")}
    print(json.dumps(figures | {"passed": bool(passed)}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
