"""Runs on real data, small enough to be trained on every mesh: what each layout computes.

As a program it is one of several processes: it trains each run of a JSON list and prints what
`train` gives for it.
"""

import contextlib
import dataclasses
import functools
import json
import os
import sys
import zlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from helpers import quick, toy

from esam_jax import sharding, tasks
from esam_jax.config import (
    ComputeConfig,
    CropConfig,
    DataConfig,
    DecoderConfig,
    MeshConfig,
    OptimConfig,
    PretrainDecoderConfig,
    PromptedConfig,
    RunConfig,
    SamConfig,
    SamiConfig,
    SamVitConfig,
    SaveConfig,
    ScenesConfig,
    SegmentConfig,
    TeacherConfig,
    VitConfig,
)
from esam_jax.data import loader, sources
from esam_jax.data.examples import Examples, Tally
from esam_jax.data.order import Order
from esam_jax.models import named
from esam_jax.train import frozen

STEPS, BATCH, RECORDS, PX = 20, 32, 100, 32
TOLD = "told "
# Every axis of a mesh of eight divides: eight heads, and widths and patches that are multiples.
_ENCODER = {
    "width": 16,
    "heads": 8,
    "depth": 1,
    "patch_px": 8,
    "image_px": PX,
    "neck_width": 32,
}
_DECODER = {"width": 32, "heads": 8, "mlp_width": 32, "iou_width": 16}
MODELS = {
    "layout_student": lambda: SamConfig(
        encoder=VitConfig(**_ENCODER, pretrain_px=PX),
        decoder=DecoderConfig(wiring="efficientsam", **_DECODER),
    ),
    "layout_teacher": lambda: SamConfig(
        encoder=SamVitConfig(**_ENCODER, window=2, global_blocks=(0,)),
        decoder=DecoderConfig(
            wiring="sam", background="learned", mask_prompts="learned", **_DECODER
        ),
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """What may change between runs of one task that must give the same numbers."""

    task: str = "toy"
    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    accumulate: int = 1
    remat: str = "none"
    dtype: str = "float32"

    @property
    def mesh(self) -> MeshConfig:
        return MeshConfig(data=self.data, fsdp=self.fsdp, tensor=self.tensor)


def toy_task():
    """The toy task of the train loop, of numbers taken from the pictures of SAMI."""
    task = toy.task(noise=0.1)

    def loss(params, frozen, batch):
        x = batch["image"].astype(jnp.float32).reshape(-1, 8, PX * PX * 3 // 8).mean(-1) / 128 - 1
        weight = 1 + batch["image"][:, 0, 0, 0].astype(jnp.float32) % 3
        return task.loss(params, frozen, {**batch, "x": x, "y": x[:, ::-1], "weight": weight})

    return dataclasses.replace(
        task, loss=loss, example={"image": ((PX, PX, 3), np.dtype(np.uint8))}
    )


@contextlib.contextmanager
def tasks_of(layout):
    """While it lasts, the small models can be named in a config, and the toy task is built."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(named._BUILDERS, MODELS))
        if layout.task == "toy":
            stack.enter_context(mock.patch.object(tasks, "build", lambda cfg: toy_task()))
        yield


def config(layout, steps=STEPS, every=10):
    """The run of a layout. Promptable segmentation weighs its examples unevenly."""
    source = ScenesConfig(scenes=RECORDS, scene_px=PX)
    if layout.task != "segment":
        teacher = TeacherConfig(model="layout_teacher", weights="random")
        decoder = PretrainDecoderConfig(width=16, depth=1, heads=8)
        task = SamiConfig(students=("layout_student",), teacher=teacher, decoder=decoder)
        view = CropConfig(image_px=PX)
    else:
        task = SegmentConfig(model="layout_student")
        view = PromptedConfig(image_px=PX, masks=2, min_area_px=4)
    return RunConfig(
        name="layout",
        task=task,
        data=DataConfig(source=source, view=view, threads=1),
        optim=OptimConfig(peak_lr=1e-3, warmup_steps=2),
        steps=steps,
        batch=BATCH,
        accumulate=layout.accumulate,
        compute=ComputeConfig(remat=layout.remat, dtype=layout.dtype),
        mesh=layout.mesh,
        log_every_steps=1,
        save=SaveConfig(every_steps=every),
    )


class Watched(loader.Stream):
    """The stream of a run, which notes what each row of a batch holds, and may end (EOFError)."""

    def __init__(self, *args, opened, batches):
        super().__init__(*args)
        self._batches = batches
        self.rows = []  # for each batch, row -> checksum of its picture
        opened.append(self)

    def __next__(self):
        if len(self.rows) == self._batches:
            raise EOFError
        batch = super().__next__()
        rows = {}
        for shard in batch["image"].addressable_shards:
            first = shard.index[0].indices(len(batch["image"]))[0]
            pictures = jax.device_get(shard.data)
            rows |= {first + i: zlib.crc32(picture) for i, picture in enumerate(pictures)}
        self.rows.append(rows)
        return batch


@contextlib.contextmanager
def watch(batches=None):
    """While it lasts, streams are `Watched`, and end after so many batches; gives their list."""
    opened = []
    watched = functools.partial(Watched, opened=opened, batches=batches)
    with mock.patch.object(loader, "Stream", watched):
        yield opened


def train(layout, steps=STEPS):
    """(losses, rows): of each update, its loss and what each row here was."""
    cfg = config(layout, steps)
    with tasks_of(layout), watch():
        mesh, task = sharding.make_mesh(cfg.mesh), tasks.build(cfg)
        state, weights = start(task, cfg, mesh)
        update = toy.jit_step(task, cfg, mesh, state, weights)
        source = sources.open_source(cfg.data.source)
        with loader.stream(source, cfg.data, seed=cfg.seed, batch=cfg.batch, mesh=mesh) as batches:
            batch, losses = next(batches), []
            program = update.lower(state, weights, batch).compile(quick.OPTIONS)
            update = dataclasses.replace(update, jitted=program)
            for done in range(1, steps + 1):
                state, metrics = update(state, weights, batch)
                losses.append(float(metrics["loss"]))
                batch = next(batches) if done < steps else None
        return losses, batches.rows


def start(task, cfg, mesh):
    """(state, frozen) of a run, of random parameters that need no compiler."""
    template = toy.abstract(task, cfg, mesh)

    def draw(path, leaf):
        rng = np.random.default_rng(zlib.crc32(sharding.name(path).encode()))
        return rng.normal(0.0, 0.1, leaf.shape).astype(leaf.dtype)

    params = jax.tree_util.tree_map_with_path(draw, template.params)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template)
    places = jax.tree.map(lambda leaf: leaf.sharding, template)
    state = jax.device_put(zeros.replace(params=params), places)
    weights = {
        name: jax.tree_util.tree_map_with_path(draw, part.shapes())
        for name, part in task.frozen.items()
    }
    return state, frozen.place(task, weights, mesh)


def expected_rows(cfg, first_step, steps):
    """(ids, rows): the record at each row of each batch, and the checksum of its view, found
    without a loader's order of reading: one position after the other."""
    source = sources.open_source(cfg.data.source)
    order = Order(len(source), cfg.seed)
    examples = Examples(source, cfg.data.view, cfg.seed)
    tally = Tally(examples, cfg.data.max_broken_share)
    ids, rows = [], []
    for number in range(first_step, first_step + steps):
        positions = range(number * cfg.batch, (number + 1) * cfg.batch)
        ids.append([source.name(order[p][1]) for p in positions])
        rows.append(
            {i: zlib.crc32(tally.view_of(examples[p])["image"]) for i, p in enumerate(positions)}
        )
    return ids, rows


def difference(losses, alone):
    """The largest relative difference of two runs' losses."""
    ours, theirs = np.asarray(losses), np.asarray(alone)
    return float(np.max(np.abs(ours - theirs) / np.abs(theirs)))


def tell(value):
    """Prints a value for the one who started this process; others print too."""
    print(TOLD + json.dumps(value), flush=True)


def told(outputs):
    """For each value that the processes told, what each one said."""
    lines = [output.splitlines() for output, _ in outputs]
    said = [[json.loads(x[len(TOLD) :]) for x in each if x.startswith(TOLD)] for each in lines]
    return list(zip(*said, strict=True))


def join(rows):
    """The rows of whole batches, from those that each process held."""
    whole = [{} for _ in rows[0]]
    for own in rows:
        for batch, some in zip(whole, own, strict=True):
            batch |= {int(row): value for row, value in some.items()}
    return whole


def main():
    jax.distributed.initialize(
        num_processes=int(os.environ["JAX_NUM_PROCESSES"]),
        process_id=int(os.environ["JAX_PROCESS_ID"]),
    )
    steps, runs = json.loads(sys.argv[1])
    for fields in runs:
        tell(train(Layout(**fields), steps))


if __name__ == "__main__":
    main()
