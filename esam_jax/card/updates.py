"""Training: the teacher's features, one update of SAMI and one of fine-tuning, as large as fits."""

import dataclasses
import functools
import math
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from esam_jax import sharding, tasks
from esam_jax.bench import timing
from esam_jax.bench.timing import Timing
from esam_jax.card import drawn, fitting, profiled, setting
from esam_jax.card.setting import MAY_STOP, Program, Row, Setting
from esam_jax.config import RunConfig
from esam_jax.errors import TrainingError
from esam_jax.machine import accelerators, environment
from esam_jax.tasks import operations
from esam_jax.tasks.task import Frozen, Task
from esam_jax.train import frozen as frozen_weights
from esam_jax.train import optim, scalars
from esam_jax.train import state as states
from esam_jax.train.optim import Schedule
from esam_jax.train.step import jit_step
from esam_jax.typing import Params

# Of a network that computes in float32, for one in 16 bits.
_FLOAT32_BYTES = 2.2
_GUESS = 0.9  # of the batch that the guess of bytes would allow


def teacher(sizes: Setting) -> Iterator[Row]:
    """Features of uint8 pictures, by view: the student's pixels, or those enlarged."""
    for dtype in sizes.dtypes:
        for view, most, each in sizes.teacher:
            yield MAY_STOP
            cfg = setting.run_config(sizes.sami.config, 1, dtype)
            chosen = dataclasses.replace(cfg.task.teacher, view=view)  # pyright: ignore
            cfg = dataclasses.replace(cfg, task=dataclasses.replace(cfg.task, teacher=chosen))
            program = Program(config=sizes.sami.config, most=most, bytes_per_example=each)
            where = setting.mesh()
            task = tasks.build(cfg)
            (name,) = task.frozen
            part, like = task.frozen[name], frozen_weights.abstract(task, where)[name]
            usable = setting.usable_bytes(sizes)
            (timed, found), tried = fitting.largest(
                functools.partial(_compile_features, task, part, like, where),
                functools.partial(_time_features, sizes, cfg, part, like, where),
                usable=usable,
                first=_guess(program, usable, dtype),
                most=most,
            )
            work = operations.parts(cfg)[0].total
            yield _row(f"teacher, {view}", dtype, timed, found, tried, usable, work)


def sami(sizes: Setting) -> Iterator[Row]:
    """One update, in each type."""
    for dtype in sizes.dtypes:
        yield MAY_STOP
        yield _update("SAMI", sizes, sizes.sami, dtype)


def fine_tune(sizes: Setting) -> Iterator[Row]:
    """One update of promptable fine-tuning, in each type."""
    for dtype in sizes.dtypes:
        yield MAY_STOP
        yield _update("fine-tuning", sizes, sizes.fine_tune, dtype)


def _update(title: str, sizes: Setting, program: Program, dtype: str) -> Row:
    where, usable = setting.mesh(), setting.usable_bytes(sizes)

    def config(batch: int) -> RunConfig:
        return setting.run_config(program.config, batch, dtype)

    (timed, found), tried = fitting.largest(
        lambda batch: _compile_update(config(batch), where),
        lambda compiled, batch: _time_update(sizes, compiled, config(batch), where),
        usable=usable,
        first=_guess(program, usable, dtype),
        most=program.most,
    )
    work = operations.per_example(config(1))
    return _row(f"{title}, {program.config}", dtype, timed, found, tried, usable, work)


def _row(
    name: str,
    dtype: str,
    timed: Timing,
    found: dict[str, Any],
    tried: list[fitting.Tried],
    usable: int,
    work: int,
) -> Row:
    """`work` is that of one example, for the MFU."""
    (ran,) = (each for each in tried if each.ran)
    peak = environment.peak_flops(setting.mesh())
    rate = ran.batch / timed.median
    return {
        "table": "updates",
        "program": name,
        "dtype": dtype,
        "size": ran.batch,
        "seconds": timed.median,
        "p90_seconds": timed.p90,
        "examples_per_second": rate,
        "flops_per_example": work,
        "mfu": None if peak is None else work * rate / peak,
        "compile_seconds": ran.compile_seconds,
        "peak_bytes": ran.peak_bytes,
        "usable_bytes": usable,
        "tried": [dataclasses.asdict(each) for each in tried],
        **found,
    }


def _guess(program: Program, usable: int, dtype: str) -> int:
    each = program.bytes_per_example * (_FLOAT32_BYTES if dtype == "float32" else 1)
    return max(1, int(_GUESS * usable / each))


# --------------------------------------------------------------------------------- the teacher


def _compile_features(
    task: Task, part: Frozen, like: Params, where: Any, batch: int
) -> tuple[jax.stages.Compiled, float]:
    shape, dtype = task.example["image"]
    pictures = jax.ShapeDtypeStruct((batch, *shape), dtype, sharding=sharding.batch(where))
    begin = time.monotonic()

    def features(params: Params, pictures: jax.Array) -> jax.Array:
        with sharding.activations(where):
            return part.features(params, pictures)

    compiled = jax.jit(features).lower(like, pictures).compile()
    return compiled, time.monotonic() - begin


def _time_features(
    sizes: Setting,
    cfg: RunConfig,
    part: Frozen,
    like: Params,
    where: Any,
    compiled: jax.stages.Compiled,
    batch: int,
) -> tuple[Timing, dict[str, Any]]:
    params = drawn.params(like)
    pictures = drawn.batch(cfg, batch, where)["image"]

    def call() -> jax.Array:
        return compiled(params, pictures)

    (timed,) = timing.in_turn([call], sizes.updates)
    return timed, profiled.measure(compiled, call, accelerators.of(jax.devices()[0]), calls=1)


# ---------------------------------------------------------------------------------- the updates


def _compile_update(cfg: RunConfig, where: Any) -> tuple[jax.stages.Compiled, float]:
    task, optimiser = tasks.build(cfg), optim.make(cfg.optim, cfg.steps)
    template, weights = (
        states.abstract(task, optimiser, where),
        frozen_weights.abstract(task, where),
    )
    step = jit_step(
        task,
        optimiser,
        where,
        template,
        weights,
        seed=cfg.seed,
        accumulate=cfg.accumulate,
        guarded=cfg.guard,
    )
    begin = time.monotonic()
    lowered = step.lower(template, weights, states.abstract_batch(task, cfg.batch, where))
    compiled = lowered.compile()
    return compiled, time.monotonic() - begin


def _time_update(
    sizes: Setting, compiled: jax.stages.Compiled, cfg: RunConfig, where: Any
) -> tuple[Timing, dict[str, Any]]:
    """As the train loop calls it: each update gets the state of the one before, which it consumes.

    TrainingError for a loss that is not finite.
    """
    task, optimiser = tasks.build(cfg), optim.make(cfg.optim, cfg.steps)
    state = drawn.state(task, cfg, where)
    weights = drawn.params(frozen_weights.abstract(task, where))
    batch = drawn.batch(cfg, cfg.batch, where)
    everywhere = sharding.replicated(where)
    schedule = Schedule(*(sharding.place(number, everywhere) for number in optimiser.schedule))
    metrics: Any = None

    def call() -> Any:
        nonlocal state, metrics
        state, metrics = compiled(state, weights, batch, schedule)
        return metrics

    (timed,) = timing.in_turn([call], sizes.updates)
    loss = float(np.asarray(scalars.fetch(metrics)["loss"]))
    if not math.isfinite(loss):
        raise TrainingError(f"the loss of {cfg.name} with random weights is {loss}")
    found = profiled.measure(compiled, call, accelerators.of(jax.devices()[0]), calls=1)
    return timed, {"loss": loss, **found}
