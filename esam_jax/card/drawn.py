"""Arrays for programs that are timed: random ones of given shapes, and batches of drawn scenes."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from esam_jax import sharding
from esam_jax.config import RunConfig, ScenesConfig
from esam_jax.data import sources
from esam_jax.data.examples import Examples
from esam_jax.tasks.task import Task
from esam_jax.train import optim
from esam_jax.train import state as states
from esam_jax.train.state import TrainState
from esam_jax.typing import Batch, Params

_SCENES = 4  # drawn for a batch, which repeats them


def params(like: Params) -> Params:
    """Parameters of these shapes, types and shardings, small enough that nothing overflows.

    Their numbers repeat after a million: drawing half a billion would take longer than timing them.
    """

    def draw(path: tuple[Any, ...], leaf: Any) -> jax.Array:
        kind = sharding.name(path).rsplit("/", 1)[-1]
        if kind in ("scale", "bias"):
            values = np.full(leaf.shape, kind == "scale", leaf.dtype)
        else:
            fan_in = np.prod(leaf.shape[:-1]) if kind == "kernel" else 1
            values = np.resize((_noise() / fan_in**0.5).astype(leaf.dtype), leaf.shape)
        return jax.device_put(values, leaf.sharding)

    return jax.tree_util.tree_map_with_path(draw, like)


@functools.cache
def _noise() -> np.ndarray:
    """Of a length that no width divides, so that no two rows are alike."""
    return np.random.default_rng(0).standard_normal(999_983, np.float32)


def state(task: Task, cfg: RunConfig, where: Mesh) -> TrainState:
    """A state before its first update: random parameters, every other number 0."""
    template: Any = states.abstract(task, optim.make(cfg.optim, cfg.steps), where)
    zeros = jax.tree.map(
        lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding),
        template.replace(params={}),
    )
    return zeros.replace(params=params(template.params))


def batch(cfg: RunConfig, size: int, where: Mesh) -> Batch:
    """Examples of the run's own view on the device: a few drawn scenes, again and again."""
    views = list(_views(cfg))
    rows = [number % len(views) for number in range(size)]
    return {
        name: sharding.place(np.stack([view[name] for view in views])[rows], sharding.batch(where))
        for name in views[0]
    }


def _views(cfg: RunConfig) -> Iterator[dict[str, np.ndarray]]:
    source = ScenesConfig(scenes=4 * _SCENES, scene_px=max(32, cfg.data.view.image_px))
    examples = Examples(sources.open_source(source), cfg.data.view, seed=0)
    for position in range(_SCENES):
        view = examples[position].view
        assert view is not None  # every scene has objects
        yield view
