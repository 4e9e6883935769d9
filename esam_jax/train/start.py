"""Before a run touches anything: where it stands, and whether all that it needs is there.

`standing` and `check` only read: a typing error, a missing file or two hosts that disagree are
reported before a folder is made, a program compiled or a device filled. `begin` then fills them.
"""

import dataclasses
import socket
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from esam_jax import sharding, tasks
from esam_jax.config import RunConfig, json
from esam_jax.data import records, sources, views
from esam_jax.data.records import Source
from esam_jax.machine import compiler_options
from esam_jax.processes import alert, consistency, leader
from esam_jax.runs import config_file, metrics_file, owner
from esam_jax.tasks import operations, trained
from esam_jax.tasks.task import Measure, Start, Task
from esam_jax.train import averages, guard, jobs, optim
from esam_jax.train import frozen as frozen_weights
from esam_jax.train import state as states
from esam_jax.train.checkpoint import manager
from esam_jax.train.checkpoint.manager import Checkpoints
from esam_jax.train.optim import Optimiser
from esam_jax.train.state import TrainState
from esam_jax.train.telemetry import log, trackers
from esam_jax.typing import Params

LESS_MEMORY = "raise --accumulate, lower --batch, or set --compute.remat blocks"


@dataclasses.dataclass(frozen=True)
class Standing:
    """How far a run folder has come: updates done, and whether the run is finished."""

    first_step: int
    finished: bool
    metrics: dict[str, Any]


@dataclasses.dataclass(kw_only=True)
class Ready:
    """What a run is made of, opened and checked. `weights` are those of frozen networks."""

    task: Task
    mesh: Mesh
    optimiser: Optimiser
    template: TrainState  # abstract
    source: Source
    records: str
    start: Start
    weights: Params
    digests: Mapping[str, str]
    measure: Measure | None

    @property
    def count(self) -> trained.Count:
        """Of the parameters."""
        return trained.count(self.template.params, self.task.trains)


@dataclasses.dataclass(kw_only=True)
class Begun:
    """A run on its devices, at the first update."""

    first_step: int
    state: TrainState
    frozen: Params
    rollback: dict[str, object] | None  # what the log says of a spike that was gone back from
    flops_per_example: int


def standing(
    cfg: RunConfig,
    workdir: Path,
    back: guard.RollBack | None,
    resume_with: Collection[str],
) -> Standing:
    """The same on every host, whose facts are compared; `back` is a spike to go back from."""
    trackers.require(cfg.trackers)
    alert.require(cfg.alert)
    first_step = manager.newest(workdir)
    if back is not None:
        first_step = guard.target(back, manager.steps(workdir), cfg.save.every_steps)
    metrics = log.merged(workdir / log.METRICS_FILE)
    lines = metrics_file.read(workdir / log.METRICS_FILE)
    ended = first_step == cfg.steps or _stopped_early(cfg, lines, first_step)
    finished = ended and first_step == metrics_file.finished_at(workdir / log.METRICS_FILE)
    # Hosts with folders of their own would resume from different steps.
    here = {"workdir": str(workdir.absolute()), "first_step": first_step, "finished": finished}
    consistency.agree(consistency.facts(json.to_json(cfg), **here))
    if first_step:
        leader.decide(lambda: config_file.require_same(cfg, workdir, first_step, resume_with))
    else:
        leader.decide(lambda: config_file.require_own(workdir))
    return Standing(first_step, finished, metrics)


def _stopped_early(cfg: RunConfig, lines: list[metrics_file.Line], step: int) -> bool:
    """Whether the run ended there since its evaluations no longer improved."""
    patience = jobs.Patience.of(cfg)
    return patience is not None and patience.exhausted_at(metrics_file.measured(lines)) == step


def announce(
    cfg: RunConfig, workdir: Path, ready: Ready, first_step: int, progress: bool | None
) -> None:
    """Says what starts, which share of it is trained, and where its numbers can be followed."""
    what = f"resuming from step {first_step} of" if first_step else "training, steps:"
    text = f"{cfg.name}: {what} {cfg.steps}; log: {workdir / log.METRICS_FILE}"
    count = ready.count
    log.note(text if count.trained == count.all else f"{text}; training {count}", progress)
    if left := averages.left_of_the_start(cfg.optim.ema, cfg.steps):
        log.note(f"{cfg.name}: {left}", progress)


def announce_end(cfg: RunConfig, workdir: Path, step: int, progress: bool | None) -> None:
    """Says that nothing is left to do, after so many updates."""
    done = f"all {cfg.steps} steps" if step == cfg.steps else f"{step} of {cfg.steps} steps"
    log.note(f"{workdir} is finished already: {done} are done", progress)


def record(cfg: RunConfig, workdir: Path, first_step: int, *, again: bool) -> None:
    """Writes config.json and, unless the same process starts `again`, an attempt; for process 0.

    What is killed before its log opens has been started all the same.
    """
    with owner.writing(workdir, resumed=first_step > 0):
        config_file.store(cfg, workdir, first_step)
        if not again:
            file = workdir / log.METRICS_FILE
            now = round(time.time(), 3)  # for people alone
            metrics_file.append_attempt(file, first_step, time=now, host=socket.gethostname())


def fitted(cfg: RunConfig, workdir: Path) -> tuple[RunConfig, Source | None]:
    """The config with what its view takes from the data, and those if they were opened for it.

    Of a run that resumes it is what the run took.
    """
    view = cfg.data.view
    if not views.takes_from_data(view):
        return cfg, None
    source = None
    if manager.newest(workdir):
        before = config_file.stored(workdir)
        view = view if before is None else views.resumed(view, before.data.view)
    else:
        source = sources.open_source(cfg.data.source, needs=view.needs)
        view = views.adapted(view, source)
    return dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, view=view)), source


def check(cfg: RunConfig, workdir: Path, first_step: int, source: Source | None = None) -> Ready:
    """Opens all that a typing error can break, on every host, but a `source` that is open.

    Raises EsamError.
    """
    mesh = sharding.make_mesh(cfg.mesh)
    if cfg.compute.deterministic and mesh.devices.flat[0].platform == "gpu":
        compiler_options.sum_in_one_order()  # before the first sum over devices
    sharding.check_batch(cfg.batch, cfg.accumulate, mesh)
    if source is None:
        source = sources.open_source(cfg.data.source, needs=cfg.data.view.needs)
    views.require(cfg.data.view, source)
    found = records.summary(source)
    task = tasks.build(cfg)
    measure = None
    if cfg.evaluate is not None and task.measurement is not None:
        measure = task.measurement(cfg.evaluate, mesh)
    weights = frozen_weights.read(task)
    digests = frozen_weights.digests(weights)
    # Else batches would hold some records twice, and hosts would learn from different teachers.
    consistency.agree({"records": found, "frozen": digests})
    if first_step:
        frozen_weights.compare(task, digests, workdir)
    optimiser = optim.make(cfg.optim, cfg.steps)
    return Ready(
        task=task,
        mesh=mesh,
        optimiser=optimiser,
        template=states.abstract(task, optimiser, mesh),
        source=source,
        records=found,
        start=task.resumed() if first_step else task.initial(),
        weights=weights,
        digests=digests,
        measure=measure,
    )


def begin(
    cfg: RunConfig,
    ready: Ready,
    checkpoints: Checkpoints,
    workdir: Path,
    back: guard.RollBack | None,
) -> Begun:
    """The state, restored or new, and the frozen networks, tried out on one picture."""
    task, mesh, template = ready.task, ready.mesh, ready.template
    first_step = leader.decide(checkpoints.latest) or 0
    if first_step:
        state = states.averaging(checkpoints.restore(template), template, task)
        # Older, if the newest is damaged; other hosts may see that later than process 0.
        first_step = leader.decide(checkpoints.latest) or 0
    else:
        key = states.init_key(cfg.seed)
        state = states.create(task, ready.optimiser, key, mesh, ready.start.params)
    state, rollback = (state, None) if back is None else guard.skip_ahead(back, state)
    frozen = frozen_weights.place(task, ready.weights, mesh)
    ready.weights = {}  # gigabytes on the host that nothing needs any more
    frozen_weights.try_out(task, frozen, mesh)
    if not first_step or not (workdir / frozen_weights.FILE).is_file():
        frozen_weights.store(task, ready.digests, workdir)
    shapes = jax.eval_shape(lambda tree: tree, (template.params, frozen))
    return Begun(
        first_step=first_step,
        state=state,
        frozen=frozen,
        rollback=rollback,
        flops_per_example=operations.per_example(cfg, *shapes),
    )
