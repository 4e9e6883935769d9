"""`esam features`: what a run's frozen network makes of each of its pictures, into files.

A run whose network sees every picture alike, without random crops and flips, may then read them.
"""

import concurrent.futures
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from esam_jax import sharding, tasks
from esam_jax.config import FramedConfig, RunConfig, ViewConfig
from esam_jax.data import sources, views
from esam_jax.data.records import Source
from esam_jax.data.stored_features import Writer
from esam_jax.data.views import draws
from esam_jax.errors import ConfigError, DataError, MissingError
from esam_jax.machine import compiler_options, out_of_memory
from esam_jax.tasks import stored
from esam_jax.tasks.task import Frozen, Task
from esam_jax.train import frozen as frozen_weights
from esam_jax.typing import Params


def store(
    cfg: RunConfig,
    folder: str | Path,
    *,
    dtype: Literal["float16", "bfloat16"] = "float16",
    progress: bool | None = None,
) -> dict[str, Any]:
    """Writes the features of every record of `cfg.data.source`; those that are there are kept.

    {"stored": records in the folder, "added": by this call, "broken": [reasons]}: a picture that
    cannot be read has no features, and training leaves it out, too. ConfigError for a run without a
    frozen network, or whose pictures are not the same each time. All devices of this process.
    """
    task = tasks.build(cfg)
    name, part = _network(cfg, task)
    mesh = sharding.make_mesh(cfg.mesh)
    sharding.check_batch(cfg.batch, 1, mesh)
    source = sources.open_source(cfg.data.source)
    weights = part.read()
    picture = jax.ShapeDtypeStruct((1, *task.example["image"][0]), np.uint8)
    shape = jax.eval_shape(part.features, weights, picture).shape[1:]
    writer = Writer(folder, stored.header(cfg, part, weights, shape, dtype))
    params = frozen_weights.place(task, {name: weights}, mesh)
    frozen_weights.try_out(task, params, mesh)
    numbers = [i for i in range(len(source)) if source.name(i) not in writer.held]
    hidden = not (sys.stderr.isatty() if progress is None else progress)
    broken, added = [], 0
    compute = _compiled(part, mesh, cfg.batch)
    with (
        tqdm(total=len(numbers), desc="esam features", unit="picture", disable=hidden) as bar,
        out_of_memory.advice("lower --batch"),
    ):
        for found in _read(source, cfg.data.view, numbers, cfg.batch, cfg.data.threads):
            good = {name: image for name, image, _ in found if image is not None}
            broken += [fault for _, _, fault in found if fault]
            if good:
                features = compute(params[name], list(good.values()))
                for (record, image), each in zip(good.items(), features, strict=True):
                    writer.add(record, image, each)
            added += len(good)
            bar.update(len(found))
    writer.close()
    return {"stored": len(writer.held) + added, "added": added, "broken": broken}


def _network(cfg: RunConfig, task: Task) -> tuple[str, Frozen]:
    view = cfg.data.view
    if not isinstance(view, FramedConfig) or view.flip != "none":
        raise ConfigError(
            f"data.view is {view.kind!r} with flip {view.flip!r}, but features can be stored of "
            "pictures alone that are the same each time: write --data.view.kind framed "
            "--data.view.flip none"
        )
    if view.features is not None:
        raise ConfigError("data.view.features is what would be written: leave it out")
    if len(task.frozen) != 1:
        raise ConfigError(f"the task {cfg.task.kind!r} has no teacher in this run: name another")
    return next(iter(task.frozen.items()))


def _compiled(part: Frozen, mesh: Mesh, batch: int) -> Any:
    """(parameters, pictures) -> the features of each on the host; fewer than a batch are padded."""
    place = sharding.batch(mesh)

    def features(params: Params, image: jax.Array) -> jax.Array:
        with sharding.activations(mesh):
            return part.features(params, image)

    jitted = jax.jit(
        features,
        out_shardings=place,
        compiler_options=compiler_options.once(mesh.devices.flat[0].platform),
    )

    def compute(params: Params, pictures: Sequence[np.ndarray]) -> np.ndarray:
        rows = [*pictures, *(batch - len(pictures)) * [np.zeros_like(pictures[0])]]
        return jax.device_get(jitted(params, jax.device_put(np.stack(rows), place)))[
            : len(pictures)
        ]

    return compute


def _read(
    source: Source, view: ViewConfig, numbers: Sequence[int], batch: int, threads: int
) -> Iterator[list[tuple[str, np.ndarray | None, str]]]:
    """(name, picture or None, reason) of each record, a batch at a time, one batch ahead."""

    def one(number: int) -> tuple[str, np.ndarray | None, str]:
        name = source.name(number)
        try:
            made = views.make(source.read(number), view, draws.generator(0, 0, name))
        except (DataError, MissingError) as fault:
            return name, None, f"{name}: {fault}"
        assert made is not None
        return name, made["image"], ""

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        ahead: list[concurrent.futures.Future[Any]] = []
        parts = [numbers[i : i + batch] for i in range(0, len(numbers), batch)]
        for part in [*parts, ()]:
            ready, ahead = ahead, [pool.submit(one, number) for number in part]
            if ready:
                yield [each.result() for each in ready]
