"""One training run: how it is optimised, spread, measured, saved and watched."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from esam_jax.config.data import DataConfig, SourceConfig, lacking
from esam_jax.config.networks import ComputeConfig
from esam_jax.config.rules import (
    MAY_DIFFER,
    Config,
    above,
    at_least,
    at_most,
    below,
    matching,
)
from esam_jax.config.tasks import TaskConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig(Config):
    """AdamW with warm-up, then cosine or linear decay to `final_lr`, or steps: a tenth of the rate
    from each of the updates `drop_at_steps` on.

    Weight decay acts on kernels only, and parameters that never had a gradient are not changed.
    MAE's pretraining decays its class and mask tokens, since its rule goes by the number of axes;
    we do not, as MAE's fine-tuning. `layer_decay` multiplies the rate of encoder block i by
    layer_decay ** (depth - i), in a TinyViT by layer_decay ** (depth - 1 - i) over all stages, and
    `encoder_rate` that of the image encoder, pairs of LoRA included. Gradients are clipped by the
    global norm of each model separately. `ema` is the decay of running averages of what is trained
    (0.9999 counts some 10,000 updates back): where they are kept, evaluations measure them and
    `model/` holds them.
    """

    peak_lr: Annotated[float, above(0)]
    schedule: Literal["cosine", "linear", "steps"] = "cosine"
    drop_at_steps: tuple[int, ...] = ()
    warmup_steps: Annotated[int, at_least(0)] = 0
    final_lr: Annotated[float, at_least(0)] = 0.0
    beta1: Annotated[float, at_least(0), below(1)] = 0.9
    beta2: Annotated[float, at_least(0), below(1)] = 0.999
    weight_decay: Annotated[float, at_least(0)] = 0.1
    layer_decay: Annotated[float | None, above(0), at_most(1)] = None
    encoder_rate: Annotated[float, above(0)] = 1.0
    clip_norm: Annotated[float | None, above(0, "None for no clipping")] = None
    ema: Annotated[float | None, above(0), below(1, "None for no averages")] = None

    eps: ClassVar[float] = 1e-8
    drop_factor: ClassVar[float] = 0.1

    def across(self) -> Iterator[tuple[str, str]]:
        drops = self.drop_at_steps
        if bool(drops) != (self.schedule == "steps"):
            yield "drop_at_steps", 'is for schedule="steps", which needs one or more: set both'
        elif any(later <= sooner for sooner, later in zip((0, *drops), drops, strict=False)):
            yield "drop_at_steps", "must rise from above 0"
        if drops and self.final_lr:
            yield "final_lr", 'is where cosine and linear decay end: leave it out of "steps"'


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig(Config):
    """Devices along each mesh axis; `data` is None for all that the other two leave."""

    data: Annotated[int | None, at_least(1)] = None
    fsdp: Annotated[int, at_least(1)] = 1
    tensor: Annotated[int, at_least(1)] = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """What a task measures (`measures` of its config), on other pictures, in and after the run."""

    source: SourceConfig
    images: Annotated[int, at_least(1)] = 100
    masks_per_image: Annotated[int, at_least(1)] = 32
    every_steps: Annotated[int | None, at_least(1, "None for the end only")] = None
    # The run ends after so many evaluations in a row without a better value of `save.best`.
    patience: Annotated[int | None, at_least(1, "None to train to the end")] = None

    seed: ClassVar[int] = 0  # of the pictures and prompts that are measured


@dataclasses.dataclass(frozen=True, kw_only=True)
class SaveConfig(Config):
    """When the state is written, what is kept, and what happens when it cannot be written or read.

    `keep` counts the newest committed checkpoints. `best` names a metric of the evaluation: the
    checkpoint with its highest value is kept besides them, and the run's `model/` is of that one
    instead of the last. `damaged`: "fallback" continues from the
    checkpoint before.
    """

    every_steps: Annotated[int, at_least(1)] = 1000
    keep: Annotated[int, at_least(2, "one may be damaged")] = 2
    best: str | None = None
    full_disk: Literal["stop", "continue"] = "stop"
    damaged: Literal["stop", "fallback"] = "stop"


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuardConfig(Config):
    """What is done about non-finite or unstable losses, and about steps that never end.

    An update whose loss or gradient is not finite is skipped: `max_skipped` in a row, then the run
    stops. `spike` answers a loss above that many times its running mean by going back to the
    checkpoint before it and leaving out the batches since (PaLM, arXiv:2204.02311, section 5.1).
    """

    max_skipped: Annotated[int, at_least(1), MAY_DIFFER] = 10
    spike: Annotated[float | None, above(1, "None for no rollback")] = None
    # Compares the copies of each parameter.
    checksum_every_steps: Annotated[
        int | None, at_least(1, "None for no comparison"), MAY_DIFFER
    ] = 1000
    # Without a finished step, before all stacks are shown.
    hang_seconds: Annotated[float | None, above(0, "None to wait forever"), MAY_DIFFER] = 300.0

    spike_horizon_steps: ClassVar[int] = 100  # of the mean; no spike is seen before so many updates
    max_rollbacks: ClassVar[int] = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileConfig(Config):
    """Which updates are traced to `<workdir>/profile` (read it with xprof or Perfetto)."""

    first_step: int | None = None  # None: none
    steps: Annotated[int, at_least(1)] = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeersConfig(Config):
    """The processes of one run, and how long they wait for each other. Not part of the run: each
    process has its own.

    Slurm, Open MPI and Cloud TPU provide the first three; elsewhere all three are
    given here, or by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    """

    # Listens on process 0.
    coordinator: Annotated[str | None, matching(r".+:\d+", "HOST:PORT")] = None
    processes: Annotated[int | None, at_least(1)] = None  # in all
    process: Annotated[int | None, at_least(0)] = None  # the number of this one, from 0
    devices: Annotated[int | None, at_least(1)] = None  # expected in all; None: those found
    # A process that is silent for so long ends the others.
    heartbeat_seconds: Annotated[int, at_least(1)] = 30
    join_seconds: Annotated[int, at_least(1)] = 300  # for all processes to have come

    def across(self) -> Iterator[tuple[str, str]]:
        if self.process is not None and self.process >= (self.processes or math.inf):
            yield "process", f"must be below processes={self.processes}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig(Config):
    """One training run: a file in `configs/` returns one of these.

    Another mesh, accumulation or attention kernel changes the order of sums: that is float
    rounding, so that a resumed run may have another.
    """

    # What `save.every_steps` and `save.keep` were called at first.
    RETIRED: ClassVar[tuple[str, ...]] = ("save_every_steps", "keep_checkpoints")

    name: Annotated[str, MAY_DIFFER]
    task: TaskConfig
    data: DataConfig
    optim: OptimConfig
    steps: Annotated[int, at_least(1)]
    # Examples in one update, over all devices and micro-batches.
    batch: Annotated[int, at_least(1)]
    accumulate: Annotated[int, at_least(1), MAY_DIFFER] = 1  # micro-batches in one update
    seed: Annotated[int, at_least(0), below(2**32)] = 0
    compute: ComputeConfig = ComputeConfig()
    mesh: Annotated[MeshConfig, MAY_DIFFER] = MeshConfig()
    evaluate: Annotated[EvaluateConfig | None, MAY_DIFFER] = None
    log_every_steps: Annotated[int, at_least(1), MAY_DIFFER] = 10
    save: Annotated[SaveConfig, MAY_DIFFER] = SaveConfig()
    guard: GuardConfig = GuardConfig()
    profile: Annotated[ProfileConfig, MAY_DIFFER] = ProfileConfig()
    # Beside metrics.jsonl.
    trackers: Annotated[tuple[Literal["tensorboard", "wandb"], ...], MAY_DIFFER] = ()
    # A command that is run on events: see processes/alert.py.
    alert: Annotated[str | None, MAY_DIFFER] = None
    # What the command line leaves out: as the config has it, or by the rules of tasks/own_data.py.
    defaults: Annotated[Literal["config", "own_data"], MAY_DIFFER] = "config"

    def across(self) -> Iterator[tuple[str, str]]:
        task, best, saved = self.task, self.save.best, self.save.every_steps
        if self.batch % self.accumulate:
            yield "batch", f"must divide into accumulate={self.accumulate} micro-batches"
        if self.data.view.kind not in task.reads:
            reads = " or ".join(map(repr, task.reads))
            yield "data.view.kind", f"the task {task.kind!r} reads {reads} views"
        if self.evaluate is not None and not task.measures:
            yield "evaluate", f"the task {task.kind!r} has nothing to measure: leave it out"
        elif self.evaluate is not None:
            needs, where = task.measured_on, "evaluate.source"
            yield from lacking(self.evaluate.source, needs, "a measurement needs", where)
        if best is not None and self.evaluate is None:
            yield "save.best", "nothing is measured in this run: set evaluate, or leave it out"
        elif best is not None and best not in task.measures:
            yield "save.best", f"must be one of {', '.join(task.measures)}"
        evaluate = self.evaluate
        patience, often = (evaluate.patience, evaluate.every_steps) if evaluate else (None, None)
        if patience is not None and (best is None or often is None):
            yield (
                "evaluate.patience",
                "compares evaluations: set evaluate.every_steps and save.best",
            )
        measured = None if self.evaluate is None else self.evaluate.every_steps
        if best is not None and measured and measured % saved and saved % measured:
            yield (
                "save.best",
                f"a checkpoint every {saved} steps (save.every_steps) is seldom one that is "
                f"measured every {measured} (evaluate.every_steps): let one be a multiple of the "
                "other",
            )
        if any(drop >= self.steps for drop in self.optim.drop_at_steps):
            yield "optim.drop_at_steps", f"must be below steps={self.steps}"
        if self.optim.warmup_steps >= self.steps:
            yield (
                "optim.warmup_steps",
                f"must be fewer than steps={self.steps}: lower --optim.warmup-steps",
            )
