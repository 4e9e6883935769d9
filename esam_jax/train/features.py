"""`esam features`: what a run's frozen network makes of each of its views, into files.

A run whose views are fixed (`views.fixed`) may then read them.
"""

import concurrent.futures
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from esam_jax import sharding, tasks
from esam_jax.config import RunConfig, ViewConfig
from esam_jax.data import sources, views
from esam_jax.data.records import Source
from esam_jax.data.stored_features import DType, Writer, view_name
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
    dtype: DType = "float16",
    part: tuple[int, int] = (1, 1),
    progress: bool | None = None,
) -> dict[str, Any]:
    """Writes the features of every view of `cfg.data.source`; those that are there are kept.

    part: (2, 8) is the second of eight parts of the records, for several hosts at once.
    {"stored": views in the folder, "added": by this call, "broken": [reasons]}: a picture that
    cannot be read has no features, and training leaves it out, too. ConfigError for a run without a
    frozen network, or whose views are not the same each time. All devices of this process.
    """
    task = tasks.build(cfg)
    name, network, count = _network(cfg, task)
    mesh = sharding.make_mesh(cfg.mesh)
    sharding.check_batch(cfg.batch, 1, mesh)
    source = sources.open_source(cfg.data.source)
    weights = network.read()
    picture = jax.ShapeDtypeStruct((1, *task.example["image"][0]), np.uint8)
    shape = jax.eval_shape(network.features, weights, picture).shape[1:]
    header = stored.header(cfg, network, weights, shape, dtype)
    writer = Writer(folder, header, part=part[0] - 1)
    params = frozen_weights.place(task, {name: weights}, mesh)
    frozen_weights.try_out(task, params, mesh)

    def wanted() -> Iterator[tuple[int, int]]:
        """(record, view) of those that are not there; there may be millions."""
        for i in range(part[0] - 1, len(source), part[1]):
            for k in range(count):
                if view_name(source.name(i), k) not in writer.held:
                    yield i, k

    hidden = not (sys.stderr.isatty() if progress is None else progress)
    broken: dict[str, None] = {}
    added = 0
    compute, missing = _compiled(network, mesh, cfg.batch), sum(1 for _ in wanted())
    with (
        tqdm(total=missing, desc="esam features", unit="view", disable=hidden) as bar,
        out_of_memory.advice("lower --batch"),
    ):
        for found in _read(source, cfg.data.view, wanted(), cfg.batch, cfg.data.threads):
            good = {name: image for name, image, _ in found if image is not None}
            broken |= dict.fromkeys(fault for _, _, fault in found if fault)
            if good:
                features = compute(params[name], list(good.values()))
                for (record, image), each in zip(good.items(), features, strict=True):
                    writer.add(record, image, each)
            added += len(good)
            bar.update(len(found))
    writer.close()
    return {"stored": len(writer.held) + added, "added": added, "broken": [*broken]}


def _network(cfg: RunConfig, task: Task) -> tuple[str, Frozen, int]:
    """Name and network, and how many views each record has."""
    view, count = cfg.data.view, views.fixed(cfg.data.view)
    if count is None:
        remedy = "--data.view.crops N" if view.kind == "crop" else "--data.view.flip none"
        raise ConfigError(
            f"data.view is {view.kind!r} and draws new views each time, but features can be stored "
            f"alone of views that are the same: write {remedy}"
        )
    if stored.folder(cfg) is not None:
        raise ConfigError("data.view.features is what would be written: leave it out")
    if task.frozen.keys() != {"teacher"}:
        raise ConfigError(f"the task {cfg.task.kind!r} has no teacher in this run: name another")
    return *next(iter(task.frozen.items())), count


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
    source: Source,
    view: ViewConfig,
    wanted: Iterator[tuple[int, int]],
    batch: int,
    threads: int,
) -> Iterator[list[tuple[str, np.ndarray | None, str]]]:
    """(name, picture or None, reason) of each (record, view), a batch at a time, one ahead."""

    def one(number: int, k: int) -> tuple[str, np.ndarray | None, str]:
        name = source.name(number)
        try:
            made = views.make_fixed(source.read(number), view, k)
        except (DataError, MissingError) as fault:
            return name, None, f"{name}: {fault}"
        return view_name(name, k), made["image"], ""

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        ahead: list[concurrent.futures.Future[Any]] = []
        while True:
            part = itertools.islice(wanted, batch)
            ready, ahead = ahead, [pool.submit(one, *each) for each in part]
            if ready:
                yield [each.result() for each in ready]
            elif not ahead:
                return
