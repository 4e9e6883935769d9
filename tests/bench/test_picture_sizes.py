"""Resident memory stays flat however many sizes of pictures come."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SIZES, SETTLED = 200, 100
_SCRIPT = """
import sys
import numpy as np
import esam_jax as esam
from esam_jax.machine import compilation

sam = esam.load("quickstart_teacher")
predictor = esam.Predictor(sam)
everything = esam.AutomaticMaskGenerator(
    sam, 4, pred_iou_thresh=0.3, stability_score_thresh=0.3, output_mode="coco_rle"
)
rng = np.random.default_rng(0)
for _ in range(int(sys.argv[1])):
    picture = rng.integers(0, 256, (*rng.integers(200, 1200, 2), 3), np.uint8)
    predictor.set_image(picture)
    predictor.predict([[9, 12]], [1])
    everything.generate(picture)
    pages = int(open("/proc/self/statm").read().split()[1])
    print(pages * 4096 / 2**20, compilation.counts().programs, flush=True)
"""


@pytest.mark.nightly
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_is_flat_over_two_hundred_sizes_of_pictures():
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(SIZES)],
        env={**environment, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [[float(x) for x in line.split()] for line in done.stdout.splitlines()]
    memory, programs = zip(*rows, strict=True)
    # An allocator keeps some of what it had: the median of twenty, of which each may be larger.
    early, late = (sorted(memory[i - 20 : i])[10] for i in (SETTLED, SIZES))
    print(f"{memory[0]:.0f} MB after 1 size, {early:.0f} after {SETTLED}, {late:.0f} after {SIZES}")
    print(f"{programs[0]:.0f} programs, {programs[SETTLED]:.0f}, {programs[-1]:.0f}")
    assert late - early < 50 and programs[-1] - programs[SETTLED] < 5
