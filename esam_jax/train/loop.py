"""The train loop: one for every task, from a config and a folder to trained models.

A run folder goes on by itself: the same command after a kill, a preemption or a mended disk resumes
from the last whole checkpoint, to the same numbers as a run that was left alone.
"""

import contextlib
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from esam_jax import sharding, tasks
from esam_jax.config import RunConfig, json
from esam_jax.convert import model_folder
from esam_jax.data import loader, records, sources
from esam_jax.errors import TrainingError
from esam_jax.evaluate import runner
from esam_jax.processes import consistency, leader, stop
from esam_jax.processes.stop import Terminated
from esam_jax.processes.watchdog import Watchdog
from esam_jax.report import figures
from esam_jax.runs import config_file, metrics_file, owner
from esam_jax.tasks.task import Task
from esam_jax.train import guard, optim, teacher_check
from esam_jax.train import state as states
from esam_jax.train.checkpoint import manager
from esam_jax.train.checkpoint.manager import Checkpoints
from esam_jax.train.replicas import Replicas
from esam_jax.train.state import TrainState
from esam_jax.train.step import jit_step
from esam_jax.train.telemetry import log, trackers
from esam_jax.train.telemetry.tracing import Tracer
from esam_jax.typing import Params


def run(
    cfg: RunConfig,
    workdir: str | Path,
    *,
    progress: bool | None = None,
    resume_with: Collection[str] = (),
) -> dict[str, Any]:
    """Trains, and gives back the last value of every metric; a finished run only reads them.

    Writes config.json, metrics.jsonl, checkpoints/, model/ and plots/ in `workdir`. Raises
    EsamError for what the user can mend, most of it before anything is written or compiled, and
    Terminated on SIGTERM.
    `resume_with` names values, such as "optim.peak_lr", in which the config may differ from that of
    the run so far.
    `progress` forces the lines for people on stderr on or off; by default a terminal gets them.
    """
    back = None
    with stop.sigterm() as terminated:
        while True:
            try:
                return _run(cfg, Path(workdir), back, terminated, progress, resume_with)
            except guard.RollBack as spike:
                # Less its frames, which hold the old state in the memory of the devices.
                back = spike.with_traceback(None)


def _run(
    cfg: RunConfig,
    workdir: Path,
    back: guard.RollBack | None,
    terminated: threading.Event,
    progress: bool | None,
    resume_with: Collection[str],
) -> dict[str, Any]:
    """A run from where it stands to its end; `back` is the spike to go back from first.

    Going back is starting anew in place: the one way that a killed run takes too.
    """
    began = time.monotonic()
    trackers.require(cfg)
    first_step = manager.newest(workdir)
    if back is not None:
        first_step = guard.target(back, manager.steps(workdir), cfg.save.every_steps)
    so_far = log.merged(workdir / log.METRICS_FILE)
    done_before = first_step == cfg.steps == metrics_file.finished_at(workdir / log.METRICS_FILE)
    # Hosts with folders of their own would go on from different steps.
    here = {"workdir": str(workdir.absolute()), "first_step": first_step, "finished": done_before}
    consistency.agree(consistency.facts(json.to_json(cfg), **here))
    mesh = sharding.make_mesh(cfg.mesh)
    sharding.check_batch(cfg.batch, cfg.accumulate, mesh)
    resumed = first_step > 0
    if resumed:
        leader.decide(lambda: config_file.require_same(cfg, workdir, first_step, resume_with))
    if done_before:  # the data may be gone by now
        log.say(f"{workdir} is finished: {cfg.steps} steps are done", progress)
        return so_far

    # What a typing error can break is opened here, before the folder is touched.
    source = sources.open_source(cfg.data.source)
    found = records.summary(source)
    consistency.agree({"records": found})  # else batches would hold some twice and others never
    if cfg.evaluate is not None:
        sources.open_source(cfg.evaluate.source)
    task = tasks.build(cfg)
    start = task.initial() if first_step == 0 else None

    optimiser = optim.make(cfg.optim, cfg.steps)
    template = states.abstract(task, optimiser, cfg, mesh)
    with (
        Watchdog(cfg.guard.hang_seconds, workdir) as watchdog,
        owner.owned(workdir, resumed=resumed),
        Checkpoints(cfg.save, workdir, template) as checkpoints,
        _full_memory(),
    ):
        leader.decide(lambda: _store(cfg, workdir, first_step))
        if back is not None:
            checkpoints.go_back(first_step)
        if first_step:
            state = checkpoints.restore(template)
            # Older, if the newest is damaged; other hosts may see that later than process 0.
            first_step = leader.decide(checkpoints.latest) or 0
            log.say(f"going on from step {first_step}", progress)
        else:
            state = states.create(task, optimiser, cfg, mesh, start)
        state, rollback = (state, None) if back is None else guard.skip_ahead(back, state)
        frozen = states.load_frozen(task, cfg, mesh)
        teacher_check.check(task, cfg, mesh, frozen, workdir, resumed=first_step > 0)
        copies = Replicas(_copied(template, frozen), mesh, trusted=first_step)
        if cfg.guard.checksum_every_steps is not None and jax.process_count() > 1:
            copies.compare(first_step, _copied(state, frozen))  # each host has read its own files
        step_fn = jit_step(task, optimiser, cfg, mesh, template, frozen)
        step_fn = watchdog.watching(consistency.agreeing(step_fn), first_step)

        with (
            contextlib.closing(
                loader.stream(
                    source,
                    cfg.data,
                    seed=cfg.seed,
                    batch=cfg.batch,
                    mesh=mesh,
                    first_batch=int(state.batches),
                )
            ) as batches,
            log.Log(
                cfg,
                workdir,
                first_step,
                lambda: batches.broken,
                records=found,
                progress=progress,
                began=began,
            ) as report,
            Tracer(cfg.profile, workdir) as tracer,
        ):
            for change in leader.decide(lambda: config_file.unlogged(workdir)):
                log.say(f"changed from step {change['step']} on: {change['changes']}", progress)
                report.event(config_file.CHANGE_EVENT, **change)
            if rollback is not None:
                report.event("rollback", first_step, **rollback)
            # Nothing crosses between host and device unless it is asked for by name.
            with jax.transfer_guard("disallow"):
                # The first round has no update: it makes up for an evaluation that was cut short.
                for done in range(first_step, cfg.steps + 1):
                    if done > first_step:
                        with tracer.step(done):
                            state, metrics = step_fn(state, frozen, report.await_batch(batches))
                        tracer.after(done, metrics)
                        guard.judge(cfg.guard, report.after(done, metrics))
                        report.events(done, checkpoints.check())
                        if _is_due(cfg.guard.checksum_every_steps, done):
                            copies.compare(done, _copied(state, frozen))
                        stopping = stop.stop_agreed(terminated)
                        if stopping or done % cfg.save.every_steps == 0 or done == cfg.steps:
                            guard.judge(cfg.guard, report.flush(done))  # before it can be saved
                            with watchdog.slow("a save"), report.timed("save", done):
                                checkpoints.save(done, state)
                        if stopping:
                            with watchdog.slow("the last save"):
                                checkpoints.wait()
                            raise Terminated
                    if _evaluates(cfg, done) and done not in report.evaluated:
                        guard.judge(cfg.guard, report.flush(done))
                        with (
                            watchdog.slow("an evaluation"),
                            report.timed("evaluate", done),
                            jax.transfer_guard("allow"),
                        ):
                            measured = runner.run(cfg, task, state.params)
                            report.write(done, measured)
                            checkpoints.score(done, measured)
            with watchdog.slow("the end of the run"):
                checkpoints.wait()
                report.events(cfg.steps, checkpoints.check())
                _write_models(cfg, workdir, task, state.params, mesh)
            if jax.process_index() == 0:
                log.say(figures.loss(workdir), progress)
            report.finish()
        return log.merged(workdir / log.METRICS_FILE)


def _store(cfg: RunConfig, workdir: Path, first_step: int) -> None:
    with owner.writing(workdir, resumed=first_step > 0):
        config_file.store(cfg, workdir, first_step)


def _evaluates(cfg: RunConfig, done: int) -> bool:
    """Whether the model is measured after `done` updates: as asked, and at the end."""
    if cfg.evaluate is None or done == 0:
        return False
    return done == cfg.steps or _is_due(cfg.evaluate.every_steps, done)


def _is_due(every_steps: int | None, done: int) -> bool:
    return every_steps is not None and done % every_steps == 0


def _copied(state: TrainState, frozen: Params) -> dict[str, Any]:
    """What several devices hold copies of."""
    return {"params": state.params, "opt_state": state.opt_state, "frozen": frozen}


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
