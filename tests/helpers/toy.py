"""A toy task for the train loop: one attention-shaped and one MLP-shaped layer, learning a map."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from esam_jax import sharding
from esam_jax.config import (
    CropConfig,
    DataConfig,
    MeshConfig,
    OptimConfig,
    RunConfig,
    SamiConfig,
    SaveConfig,
    ScenesConfig,
    json,
)
from esam_jax.data.findings import Findings
from esam_jax.tasks.task import Frozen, Task
from esam_jax.tasks.trained import Count
from esam_jax.train import optim, step
from esam_jax.train import state as states
from esam_jax.train.telemetry.data_news import DataNews
from esam_jax.train.telemetry.log import Log
from esam_jax.train.telemetry.trackers import Trackers
from esam_jax.typing import PerExample

FLOPS = 123_456_789  # of an example, as `open_log` says


def task(noise=0.0):
    """Regression of y on x; `noise` times a draw from the step's key is added to every loss."""

    def init(rng):
        # Random enough, and compiled ten times faster than draws from a key.
        phase = (jax.random.key_data(rng)[-1] % 1000).astype(jnp.float32)

        def linear(number, shape, bias_shape):
            angles = phase + jnp.arange(math.prod(shape)) ** 2 * (0.1 + number)
            return {"kernel": 0.4 * jnp.sin(angles).reshape(shape), "bias": jnp.zeros(bias_shape)}

        attn = {"query": linear(1, (8, 4, 2), (4, 2)), "out": linear(2, (4, 2, 8), 8)}
        mlp = {"hidden": linear(3, (8, 16), 16), "out": linear(4, (16, 8), 8)}
        return {"toy": {"encoder": {"block_00": {"attn": attn}, "block_01": {"mlp": mlp}}}}

    def draw(rng, images):
        return {"noise": noise * jax.random.normal(rng, (images,))} if noise else {}

    def loss(params, frozen, batch):
        blocks = params["toy"]["encoder"]
        attn, mlp = blocks["block_00"]["attn"], blocks["block_01"]["mlp"]
        x = jnp.einsum("bd,dak->bak", batch["x"], attn["query"]["kernel"]) + attn["query"]["bias"]
        x = jnp.einsum("bak,akd->bd", x, attn["out"]["kernel"]) + attn["out"]["bias"]
        x = jnp.tanh(x @ mlp["hidden"]["kernel"] + mlp["hidden"]["bias"])
        x = x @ mlp["out"]["kernel"] + mlp["out"]["bias"]
        error = jnp.square(x - frozen.get("scale", 1.0) * batch["y"]).mean(-1)
        error += batch.get("noise", 0.0) * x.mean(-1)
        return PerExample(error, batch["weight"], {"largest": jnp.abs(x).max(-1)})

    number = np.dtype(np.float32)
    example = {"x": ((8,), number), "y": ((8,), number), "weight": ((), number)}
    return Task(init=init, loss=loss, example=example, models=lambda *_: {}, draw=draw)


def frozen(weights, placement="replicated", features=None, source="teacher.pt", drawn=False):
    """A frozen network of these host arrays, which looks at pictures as `features` says."""
    return Frozen(
        key="task.teacher",
        weights=source,
        read=lambda: weights,
        shapes=lambda: jax.eval_shape(lambda: weights),
        placement=placement,
        features=features or (lambda params, image: image.astype(jnp.float32)),
        drawn=drawn,
    )


def batch_of(seed, step, size):
    """Host batch of one step: a pure function of its arguments."""
    rng = np.random.default_rng((seed, step))
    x = rng.normal(size=(size, 8)).astype(np.float32)
    return {
        "x": x,
        "y": np.sin(x[:, ::-1]).astype(np.float32),
        "weight": rng.integers(0, 3, size).astype(np.float32),
    }


class Reads:
    """What a log asks of a stream."""

    def __init__(self, broken=None):
        self.broken, self.findings = {} if broken is None else broken, Findings()


class Stream:
    """Stands for data.loader.stream; `spoil` names a batch with a NaN, `edit` changes any."""

    def __init__(self, source, config, *, seed, batch, mesh, first_batch=0, spoil=None, edit=None):
        self._seed, self._batch, self._mesh = seed, batch, mesh
        self._step, self._spoil = first_batch, spoil
        self._edit = edit or (lambda number, batch: None)
        self.broken, self.findings, self.closed = {}, Findings(), False

    def __iter__(self):
        return self

    def __next__(self):
        batch = batch_of(self._seed, self._step, self._batch)
        if self._spoil == self._step:
            batch["y"][0] = np.nan
        self._edit(self._step, batch)
        self._step += 1
        return jax.device_put(batch, sharding.batch(self._mesh))

    def awaited(self):
        return f"batch {self._step} of the toy"

    def close(self):
        self.closed = True


def stream(cfg, mesh, first_batch=0):
    """The toy's batches for a config."""
    return Stream(
        None, cfg.data, seed=cfg.seed, batch=cfg.batch, mesh=mesh, first_batch=first_batch
    )


def open_log(cfg, folder, first_step=0, **more):
    """The log of a run, by a config."""
    keys = {
        "trackers": Trackers(cfg.trackers, folder, json.to_json(cfg)),
        "data": DataNews(Reads()),
        "progress": False,
    } | more
    return Log(
        folder,
        name=cfg.name,
        first_step=first_step,
        steps=cfg.steps,
        batch=cfg.batch,
        every_steps=cfg.log_every_steps,
        mesh=sharding.make_mesh(cfg.mesh),
        flops_per_example=FLOPS,
        parameters=Count(trained=7, all=9),
        **keys,
    )


def create(made, cfg, mesh, start=None):
    """The state of a task before its first update, by a config."""
    optimiser = optim.make(cfg.optim, cfg.steps)
    return states.create(made, optimiser, states.init_key(cfg.seed), mesh, start)


def abstract(made, cfg, mesh):
    """The same, abstract."""
    return states.abstract(made, optim.make(cfg.optim, cfg.steps), mesh)


def jit_step(made, cfg, mesh, state, frozen):
    """The compiled update of a task, by a config."""
    return step.jit_step(
        made,
        optim.make(cfg.optim, cfg.steps),
        mesh,
        state,
        frozen,
        seed=cfg.seed,
        accumulate=cfg.accumulate,
        guarded=cfg.guard,
        deterministic=cfg.compute.deterministic,
    )


def config(**changes):
    """A whole run config (the task in it is a stand-in) of six updates of eight examples."""
    config = RunConfig(
        name="toy",
        task=SamiConfig(students=("efficientsam_nano",)),
        data=DataConfig(source=ScenesConfig(), view=CropConfig(image_px=64)),
        optim=OptimConfig(peak_lr=1e-2, warmup_steps=2),
        steps=6,
        batch=8,
        mesh=MeshConfig(data=1),
        log_every_steps=1,
        save=SaveConfig(every_steps=2),
    )
    return dataclasses.replace(config, **changes)
