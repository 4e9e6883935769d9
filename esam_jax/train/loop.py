"""The train loop: one for every task, from a config and a folder to trained models.

A run folder goes on by itself: the same command after a kill, a preemption or a mended disk resumes
from the last whole checkpoint, to the same numbers as a run that was left alone.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from esam_jax import sharding, tasks
from esam_jax.config import RunConfig
from esam_jax.convert import model_folder
from esam_jax.data import loader, sources
from esam_jax.errors import TrainingError
from esam_jax.evaluate import runner
from esam_jax.tasks.task import Task
from esam_jax.train import checkpoint, log, optim, plots
from esam_jax.train import state as states
from esam_jax.train.checkpoint import Checkpoints
from esam_jax.train.step import jit_step
from esam_jax.typing import Params

EXIT_TERMINATED = 128 + signal.SIGTERM  # what a shell reports for a process ended by SIGTERM


class Terminated(SystemExit):
    """SIGTERM came: the state is saved, and the process leaves with exit code 143."""

    def __init__(self) -> None:
        super().__init__(EXIT_TERMINATED)


def run(cfg: RunConfig, workdir: str | Path, *, progress: bool | None = None) -> dict[str, Any]:
    """Trains, and gives back the last value of every metric; a finished run only reads them.

    Writes config.json, metrics.jsonl, checkpoints/, model/ and plots/ in `workdir`. Raises
    EsamError for what the user can mend, most of it before anything is written or compiled, and
    Terminated on SIGTERM.
    `progress` forces the lines for people on stderr on or off; by default a terminal gets them.
    """
    workdir = Path(workdir)
    mesh = sharding.make_mesh(cfg.mesh)
    sharding.check_batch(cfg.batch, cfg.accumulate, mesh)
    first_step = checkpoint.newest(workdir)
    so_far = log.merged(workdir / log.METRICS_FILE)
    if first_step == cfg.steps and "finished" in so_far:
        with Checkpoints(cfg, workdir):  # only compares the configs: the data may be gone by now
            log.say(f"{workdir} is finished: {cfg.steps} steps are done", progress)
        return so_far

    # What a typing error can break is opened here, before the folder is touched.
    source = sources.open_source(cfg.data.source)
    if cfg.evaluate is not None:
        sources.open_source(cfg.evaluate.source)
    task = tasks.build(cfg)
    start = task.initial() if first_step == 0 else None

    with Checkpoints(cfg, workdir) as checkpoints, _sigterm() as terminated, _full_memory():
        optimiser = optim.make(cfg.optim, cfg.steps)
        template = states.abstract(task, optimiser, cfg, mesh)
        if first_step:
            state = checkpoints.restore(template)
            log.say(f"going on from step {first_step}", progress)
        else:
            state = states.create(task, optimiser, cfg, mesh, start)
        frozen = states.load_frozen(task, cfg, mesh)
        step_fn = jit_step(task, optimiser, cfg, mesh, template, frozen)

        with (
            contextlib.closing(loader.stream(cfg, mesh, first_step, source)) as batches,
            log.Log(cfg, workdir, first_step, lambda: batches.broken, progress=progress) as report,
        ):
            # Nothing crosses between host and device unless it is asked for by name.
            with jax.transfer_guard("disallow"):
                # The first round has no update: it makes up for an evaluation that was cut short.
                for done in range(first_step, cfg.steps + 1):
                    if done > first_step:
                        state, metrics = step_fn(state, frozen, next(batches))
                        report.after(done, metrics)
                        checkpoints.check()
                        stop = _agreed(terminated, done)
                        if stop or done % cfg.save.every_steps == 0 or done == cfg.steps:
                            report.flush(done)  # raises rather than let a non-finite state be saved
                            checkpoints.save(done, state)
                            report.restart_clock(done)
                        if stop:
                            checkpoints.wait()
                            raise Terminated
                    if _evaluates(cfg, done) and done not in report.evaluated:
                        report.flush(done)
                        with jax.transfer_guard("allow"):
                            report.write(done, runner.run(cfg, task, state.params))
                        report.restart_clock(done)
            checkpoints.wait()
            _write_models(cfg, workdir, task, state.params, mesh)
            if jax.process_index() == 0:
                log.say(plots.loss(workdir), progress)
            report.finish()
        return log.merged(workdir / log.METRICS_FILE)


def _evaluates(cfg: RunConfig, done: int) -> bool:
    """Whether the model is measured after `done` updates: as asked, and at the end."""
    if cfg.evaluate is None or done == 0:
        return False
    every = cfg.evaluate.every_steps
    return done == cfg.steps or (every is not None and done % every == 0)


def _write_models(cfg: RunConfig, workdir: Path, task: Task, params: Params, mesh: Mesh) -> None:
    """`model/` for one trained model, `model/NAME/` for each of several."""
    whole = sharding.gather(params, mesh)
    if jax.process_index() != 0:
        return
    models = task.models(whole)
    for name, model in models.items():
        folder = workdir / "model" if len(models) == 1 else workdir / "model" / name
        model_folder.write(
            folder,
            model.config,
            jax.device_get(model.params),
            source=f"esam_jax training run {cfg.name!r}, {cfg.steps} steps",
            untrained=model.untrained,
            unused=model.unused,
        )


def _agreed(terminated: threading.Event, done: int) -> bool:
    """Whether to stop here; several hosts agree on one step."""
    if jax.process_count() > 1:
        return multihost_utils.reached_preemption_sync_point(done)
    return terminated.is_set()


@contextlib.contextmanager
def _full_memory() -> Iterator[None]:
    """TrainingError, with what to do about it, where the runtime says that memory ran out."""
    try:
        yield
    except jax.errors.JaxRuntimeError as fault:
        if not any(sign in str(fault) for sign in ("RESOURCE_EXHAUSTED", "Out of memory")):
            raise
        raise TrainingError(
            f"the memory of a device is full ({' '.join(str(fault).split())[:200]}): raise "
            "--accumulate, lower --batch, or set --compute.remat blocks"
        ) from fault


@contextlib.contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that SIGTERM sets, so that the update under way can end. Threads cannot listen."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield event  # with several hosts jax.distributed listens
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)
