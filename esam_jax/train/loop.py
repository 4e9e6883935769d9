"""The train loop: one for every task, from a config and a folder to trained models.

A run resumes automatically: the same command after a kill, a preemption or a full disk resumes
from the last intact checkpoint, to the same numbers as an undisturbed run.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from esam_jax import files, sharding
from esam_jax.config import RunConfig, json
from esam_jax.convert import model_folder, provenance
from esam_jax.data import loader
from esam_jax.machine import out_of_memory
from esam_jax.processes import consistency, leader, stop
from esam_jax.processes.alert import Alert
from esam_jax.processes.stop import Terminated
from esam_jax.processes.watchdog import Watchdog
from esam_jax.report import figures
from esam_jax.runs import config_file, metrics_file, owner
from esam_jax.tasks.task import Measure
from esam_jax.train import guard, jobs, preflight, start
from esam_jax.train.checkpoint import manager
from esam_jax.train.checkpoint.manager import Checkpoints
from esam_jax.train.jobs import Due, Jobs
from esam_jax.train.replicas import Replicas
from esam_jax.train.start import Begun, Ready
from esam_jax.train.state import TrainState
from esam_jax.train.step import jit_step
from esam_jax.train.telemetry import log
from esam_jax.train.telemetry.data_news import DataNews
from esam_jax.train.telemetry.log import Log
from esam_jax.train.telemetry.tracing import Tracer
from esam_jax.train.telemetry.trackers import Trackers
from esam_jax.typing import Batch, Params
from esam_jax.words import counted


def run(
    cfg: RunConfig,
    workdir: str | Path,
    *,
    progress: bool | None = None,
    resume_with: Collection[str] = (),
) -> dict[str, Any]:
    """Trains, and returns the last value of every metric; a finished run only reads them.

    Writes config.json, metrics.jsonl, checkpoints/, model/ and plots/ in `workdir`. Raises
    EsamError for what the user can fix, most of it before anything is written or compiled, and
    Terminated on SIGTERM.
    `resume_with` names values, such as "optim.peak_lr", in which the config may differ from that of
    the run so far.
    `progress` forces the bar and the lines for people on stderr on or off; by default a terminal
    gets them, and anything else the lines of the start and the end.
    """
    files.require_local(workdir, "workdir", rule=files.LOCAL_RUN)
    back, folder = None, Path(workdir)
    with Alert(cfg.alert, name=cfg.name, workdir=folder) as hook, stop.sigterm() as terminated:
        while True:
            try:
                return _run(cfg, folder, back, terminated, progress, resume_with, hook)
            except guard.RollBack as spike:
                # Less its frames, which hold the old state in the memory of the devices.
                back = spike.with_traceback(None)
            except Terminated:
                log.note(f"{folder}: SIGTERM; step {hook.step} is saved", progress)
                raise


def _run(
    cfg: RunConfig,
    workdir: Path,
    back: guard.RollBack | None,
    terminated: threading.Event,
    progress: bool | None,
    resume_with: Collection[str],
    hook: Alert,
) -> dict[str, Any]:
    """A run from where it stands to its end; `back` is the spike to go back from first: by starting
    again in place, the one way that a killed run takes too.
    """
    began = time.monotonic()
    # ---------------------------------------------------------- the start: nothing is touched
    cfg, source = start.fitted(cfg, workdir)
    where = start.standing(cfg, workdir, back, resume_with)
    if where.finished:  # the data may be gone by now
        start.announce_end(cfg, workdir, where.first_step, progress)
        return where.metrics
    ready = start.check(cfg, workdir, where.first_step, source)
    with (
        Watchdog(cfg.guard.hang_seconds, workdir, alert=hook.hang) as watchdog,
        owner.owned(workdir, resumed=where.first_step > 0),
        Checkpoints(cfg.save, workdir, ready.template, alert=hook.send) as checkpoints,
        out_of_memory.advice(start.LESS_MEMORY),
    ):
        leader.decide(lambda: start.record(cfg, workdir, where.first_step, again=back is not None))
        tried = preflight.brief(ready.mesh, workdir) if back is None else None
        # ------------------------------------------------------ the state, on the devices
        if back is not None:
            checkpoints.go_back(where.first_step)
        begun = start.begin(cfg, ready, checkpoints, workdir, back)
        hook.step = begun.first_step
        start.announce(cfg, workdir, ready, begun.first_step, progress)
        copies = Replicas(jobs.copied(ready.template, begun.frozen), ready.mesh, begun.first_step)
        if cfg.guard.checksum_every_steps is not None and jax.process_count() > 1:
            # Each host has read its own files.
            copies.compare(begun.first_step, jobs.copied(begun.state, begun.frozen))
        # ------------------------------------------------------ the updates
        with (
            _batches(cfg, ready, begun) as batches,
            _log(cfg, ready, begun, DataNews(batches), workdir, began, progress, hook) as report,
            Tracer(cfg.profile, workdir) as tracer,
        ):
            _announce(tried, workdir, report, begun.first_step, progress)
            shared = jobs.Shared(report, watchdog, cfg.guard)
            compare = jobs.Compare(
                Due(cfg.guard.checksum_every_steps), watchdog, copies, begun.frozen
            )
            work = _jobs(cfg, shared, checkpoints, ready.measure, compare)
            step_fn = watchdog.watching(_step(cfg, ready, begun), begun.first_step)
            watched = watchdog.reading(batches, batches.awaited)
            state = _train(cfg, begun, step_fn, watched, report, tracer, work, terminated, hook)
            # -------------------------------------------------- the end
            with watchdog.slow("the end of the run"):
                work.save.wait()
                report.events(hook.step, checkpoints.check())
                _finish(cfg, workdir, ready, checkpoints, state, hook.step, report, progress)
            hook.send("finished", f"{hook.step} updates are done")
        return log.merged(workdir / log.METRICS_FILE)


def _announce(
    tried: Mapping[str, int | float] | None,
    workdir: Path,
    report: Log,
    first_step: int,
    progress: bool | None,
) -> None:
    """Reports what was tried at this start, and what was changed since the one before."""
    if tried is not None:
        log.say(preflight.in_words(tried), progress)
        report.event(preflight.EVENT, first_step, **tried)
    for change in leader.decide(lambda: config_file.unlogged(workdir)):
        log.say(f"changed from step {change['step']} on: {change['changes']}", progress)
        report.event(config_file.CHANGE_EVENT, **change)


def _train(
    cfg: RunConfig,
    begun: Begun,
    step_fn: Callable[..., Any],
    batches: Iterator[Batch],
    report: Log,
    tracer: Tracer,
    work: Jobs,
    terminated: threading.Event,
    hook: Alert,
) -> TrainState:
    """The state after the last update; Terminated once the state is saved after a SIGTERM."""
    state, frozen, first_step = begun.state, begun.frozen, begun.first_step
    if begun.rollback is not None:
        report.event("rollback", first_step, **begun.rollback)
        hook.send("rollback", ", ".join(f"{key} {x}" for key, x in begun.rollback.items()))
    if first_step == 0:
        work.save.after(0, state)
    work.evaluate.after(first_step, state)  # unless an earlier part of the run did
    # Nothing crosses between host and device unless it is requested by name.
    with jax.transfer_guard("disallow"):
        for done in range(first_step + 1, cfg.steps + 1):
            if work.evaluate.exhausted():
                break
            # ------------------------------------------ one update; its numbers come one late
            with tracer.step(done):
                state, metrics = step_fn(state, frozen, report.await_batch(batches))
            hook.step = done
            tracer.after(done, metrics)
            guard.judge(cfg.guard, report.after(done, metrics))
            report.events(done, work.save.news())
            # ------------------------------------------ what is due after it
            work.compare.after(done, state)
            stopping = stop.stop_agreed(terminated)
            work.save.after(done, state, now=stopping)
            if stopping:
                work.save.wait()
                raise Terminated
            work.evaluate.after(done, state)
    if hook.step < cfg.steps:
        best = leader.decide(work.save.checkpoints.best)
        report.event(metrics_file.EARLY_STOP, hook.step, best=best)
        if hook.step not in work.save.due:
            work.save.after(hook.step, state, now=True)
    return state


def _step(cfg: RunConfig, ready: Ready, begun: Begun) -> Callable[..., Any]:
    """(state, frozen, batch) -> (state, metrics), compiled; hosts compare their programs."""
    step_fn = jit_step(
        ready.task,
        ready.optimiser,
        ready.mesh,
        ready.template,
        begun.frozen,
        seed=cfg.seed,
        accumulate=cfg.accumulate,
        guarded=cfg.guard,
        deterministic=cfg.compute.deterministic,
    )
    return consistency.agreeing(step_fn)


def _jobs(
    cfg: RunConfig,
    shared: jobs.Shared,
    checkpoints: Checkpoints,
    measure: Measure | None,
    compare: jobs.Compare,
) -> Jobs:
    """The jobs as the config schedules them."""
    often = None if cfg.evaluate is None else cfg.evaluate.every_steps
    start = cfg.save.best is not None  # the best may be what the run began from
    return Jobs(
        compare,
        jobs.Save(Due(cfg.save.every_steps, cfg.steps, start), shared, checkpoints),
        jobs.Evaluate(
            Due(often, cfg.steps, start),
            shared,
            checkpoints,
            measure,
            compare.frozen,
            jobs.Patience.of(cfg),
        ),
    )


def _batches(cfg: RunConfig, ready: Ready, begun: Begun) -> contextlib.closing[Any]:
    stream = loader.stream(
        ready.source,
        cfg.data,
        seed=cfg.seed,
        batch=cfg.batch,
        mesh=ready.mesh,
        first_batch=int(begun.state.batches),
    )
    return contextlib.closing(stream)


def _log(
    cfg: RunConfig,
    ready: Ready,
    begun: Begun,
    data: DataNews,
    workdir: Path,
    began: float,
    progress: bool | None,
    hook: Alert,
) -> Log:
    return Log(
        workdir,
        name=cfg.name,
        first_step=begun.first_step,
        steps=cfg.steps,
        batch=cfg.batch,
        every_steps=cfg.log_every_steps,
        mesh=ready.mesh,
        flops_per_example=begun.flops_per_example,
        parameters=ready.count,
        trackers=Trackers(cfg.trackers, workdir, json.to_json(cfg)),
        data=data,
        records=ready.records,
        progress=progress,
        began=began,
        alert=hook.send,
    )


def _finish(
    cfg: RunConfig,
    workdir: Path,
    ready: Ready,
    checkpoints: Checkpoints,
    state: TrainState,
    done: int,
    report: Log,
    progress: bool | None,
) -> None:
    """Writes the model, of the last update or the best by `save.best`, and the last line."""
    of, best = done, leader.decide(checkpoints.best)
    if best is not None and best != done:
        of, state = best, manager.load(workdir, best, ready.template)
        why = metrics_file.why_earlier(best, cfg.save.best)
        report.event(metrics_file.EARLIER_MODEL, done, best=best, why=why)
        log.note(f"{workdir}: {why}", progress)
    averaged = "" if state.averages is None else provenance.AVERAGED
    origin = f"esam_jax training run {cfg.name!r}, {counted(of, 'step')}{averaged}"
    _write_models(origin, workdir, ready, state.result)
    if jax.process_index() == 0:
        log.say(figures.loss(workdir), progress)
    report.finish(done)


def _write_models(origin: str, workdir: Path, ready: Ready, params: Params) -> None:
    """`model/` for one trained model, `model/NAME/` for each of several."""
    gathered = sharding.gather(params, ready.mesh)
    if jax.process_index() != 0:
        return
    models = ready.task.models(gathered, ready.start)
    for name, model in models.items():
        folder = workdir / "model" if len(models) == 1 else workdir / "model" / name
        model_folder.write(
            folder,
            model.config,
            jax.device_get(model.params),
            source=origin,
            untrained=model.untrained,
            unused=model.unused,
            overwrite=True,
        )
