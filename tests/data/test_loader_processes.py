"""Two real processes of two devices each read the batches that one process reads alone."""

import json
import os

import jax
import numpy as np
from helpers import processes

from esam_jax import sharding
from esam_jax.config import (
    DataConfig,
    MeshConfig,
    PromptedConfig,
    ScenesConfig,
)
from esam_jax.data import loader, sources

MESHES = (MeshConfig(), MeshConfig(fsdp=2), MeshConfig(tensor=4))
DATA = DataConfig(
    source=ScenesConfig(scenes=6, scene_px=32),
    view=PromptedConfig(image_px=32, masks=2, min_area_px=4),
    threads=1,
)
BATCH = 4


def sums(mesh: jax.sharding.Mesh) -> dict[int, int]:
    """Sum of the pixels of each row of batch 3 that this process holds."""
    source = sources.open_source(DATA.source)
    stream = loader.stream(source, DATA, seed=0, batch=BATCH, mesh=mesh, first_batch=3)
    with jax.transfer_guard("disallow"), stream as batches:
        shards = next(batches)["image"].addressable_shards
    return {
        shard.index[0].indices(BATCH)[0] + i: int(np.asarray(row).sum(dtype=np.int64))
        for shard in shards
        for i, row in enumerate(shard.data)
    }


def process() -> None:
    number = int(os.environ["JAX_PROCESS_ID"])
    jax.distributed.initialize(num_processes=2, process_id=number)
    for config in MESHES:
        print("rows", json.dumps(sorted(sums(sharding.make_mesh(config)).items())))


def test_two_processes_read_what_one_reads():
    outputs = processes.finish(processes.start([__file__], 2, devices=2))
    alone = sums(sharding.make_mesh(MeshConfig(data=1)))
    found = [
        [json.loads(line[5:]) for line in output.splitlines() if line.startswith("rows")]
        for output, _ in outputs
    ]
    for first, second in zip(*found):
        assert dict(first) | dict(second) == alone
    # With `tensor` over everything, both hold every row; else each holds its half.
    assert [[len(rows) for rows in each] for each in found] == [[2, 2, 4]] * 2


if __name__ == "__main__":
    process()
