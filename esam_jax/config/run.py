"""One training run: how it is optimised, spread, measured, saved and watched."""

import dataclasses
import math
import re
from typing import Literal

from esam_jax.config.data import DataConfig, SourceConfig, require_annotations
from esam_jax.config.networks import ComputeConfig
from esam_jax.config.rules import require
from esam_jax.config.tasks import TaskConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with warm-up, then cosine or linear decay to `final_lr`.

    Weight decay acts on kernels only, and what never had a gradient is left alone. MAE's class and
    mask tokens decay, for its rule goes by the number of axes; ours do not. `layer_decay`
    multiplies the rate of encoder block i by layer_decay ** (depth - i). Clipping is by the global
    norm of each model apart.
    """

    peak_lr: float
    schedule: Literal["cosine", "linear"] = "cosine"
    warmup_steps: int = 0
    final_lr: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.1
    layer_decay: float | None = None
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        require(self.peak_lr > 0, "peak_lr", self.peak_lr, "must be positive")
        for field in ("warmup_steps", "final_lr", "weight_decay"):
            require(getattr(self, field) >= 0, field, getattr(self, field), "must not be negative")
        for field in ("beta1", "beta2"):
            value = getattr(self, field)
            require(0 <= value < 1, field, value, "must lie in [0, 1)")
        require(self.eps > 0, "eps", self.eps, "must be positive")
        require(
            self.clip_norm is None or self.clip_norm > 0,
            "clip_norm",
            self.clip_norm,
            "must be positive, or None for no clipping",
        )
        if self.layer_decay is not None:
            require(
                0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "must lie in (0, 1]"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each mesh axis; `data` is None for all that the other two leave."""

    data: int | None = None
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Box and one-point mIoU on other pictures during and after promptable training."""

    source: SourceConfig
    images: int = 100
    masks_per_image: int = 32
    every_steps: int | None = None  # None: at the end only
    seed: int = 0

    def __post_init__(self) -> None:
        for field in ("images", "masks_per_image"):
            require(getattr(self, field) > 0, field, getattr(self, field), "must be positive")
        require(
            self.every_steps is None or self.every_steps > 0,
            "every_steps",
            self.every_steps,
            "must be positive, or None for the end only",
        )
        require_annotations(self.source, frozenset({"masks"}), "a measurement needs")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SaveConfig:
    """When the state is written, what is kept, and what happens when it cannot be written or read.

    `best` names a metric of the evaluation: the checkpoint with its highest value is kept besides
    the newest ones.
    """

    every_steps: int = 1000
    keep: int = 2  # newest checkpoints that were read back and found whole
    best: Literal["box_miou", "point_miou"] | None = None
    full_disk: Literal["stop", "continue"] = "stop"
    damaged: Literal["stop", "fallback"] = "stop"  # fallback: go on from the one before

    def __post_init__(self) -> None:
        require(self.every_steps > 0, "every_steps", self.every_steps, "must be positive")
        require(self.keep >= 2, "keep", self.keep, "must be at least 2: one may be damaged")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What is done about numbers that go wrong, and about steps that never end.

    An update whose loss or gradient is not finite is skipped. `spike` answers a loss above that
    many times its running mean by going back to the checkpoint before it and leaving out the
    batches since (PaLM, arXiv:2204.02311, section 5.1).
    """

    max_skipped: int = 10  # updates skipped in a row before the run stops
    spike: float | None = None
    spike_horizon_steps: int = 100  # of the running mean; no spike is seen before so many updates
    max_rollbacks: int = 3
    checksum_every_steps: int | None = 1000  # compares the copies of each parameter
    hang_seconds: float | None = 1800.0  # without a finished step, before all stacks are shown

    def __post_init__(self) -> None:
        for field in ("max_skipped", "spike_horizon_steps"):
            value = getattr(self, field)
            require(value > 0, field, value, "must be positive")
        require(
            self.max_rollbacks >= 0, "max_rollbacks", self.max_rollbacks, "must not be negative"
        )
        require(
            self.spike is None or self.spike > 1,
            "spike",
            self.spike,
            "must be above 1, or None for no rollback",
        )
        for field in ("checksum_every_steps", "hang_seconds"):
            value = getattr(self, field)
            rule = "must be positive, or None to do without"
            require(value is None or value > 0, field, value, rule)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """Which updates are traced to `<workdir>/profile` (read it with xprof or Perfetto)."""

    first_step: int | None = None  # None: none
    steps: int = 5

    def __post_init__(self) -> None:
        require(self.steps > 0, "steps", self.steps, "must be positive")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeersConfig:
    """The processes of one run, and how long they wait for each other. Not part of the run: each
    process has its own.

    Slurm, Open MPI and Cloud TPU say by themselves who the first three are; elsewhere all three are
    given here, or by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    """

    coordinator: str | None = None  # HOST:PORT on process 0, which listens there
    processes: int | None = None  # in all
    process: int | None = None  # the number of this one, from 0
    devices: int | None = None  # that there must be in all; None: as many as are found
    heartbeat_seconds: int = 30  # a process that is silent for so long ends the others
    join_seconds: int = 300  # for all processes to have come

    def __post_init__(self) -> None:
        for field in ("processes", "devices", "heartbeat_seconds", "join_seconds"):
            value = getattr(self, field)
            require(value is None or value > 0, field, value, "must be positive")
        require(
            self.coordinator is None or re.fullmatch(r".+:\d+", self.coordinator) is not None,
            "coordinator",
            self.coordinator,
            "must be HOST:PORT",
        )
        require(
            self.process is None or 0 <= self.process < (self.processes or math.inf),
            "process",
            self.process,
            f"must lie in [0, processes={self.processes})",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run: a file in `configs/` returns one of these."""

    name: str
    task: TaskConfig
    data: DataConfig
    optim: OptimConfig
    steps: int
    batch: int  # examples in one update, over all devices and micro-batches
    accumulate: int = 1  # micro-batches in one update
    seed: int = 0
    compute: ComputeConfig = ComputeConfig()
    mesh: MeshConfig = MeshConfig()
    evaluate: EvaluateConfig | None = None
    log_every_steps: int = 10
    save: SaveConfig = SaveConfig()
    guard: GuardConfig = GuardConfig()
    profile: ProfileConfig = ProfileConfig()
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()  # beside metrics.jsonl

    def __post_init__(self) -> None:
        for field in ("steps", "batch", "accumulate", "log_every_steps"):
            require(getattr(self, field) > 0, field, getattr(self, field), "must be positive")
        require(0 <= self.seed < 2**32, "seed", self.seed, "must lie in [0, 2**32)")
        require(
            self.batch % self.accumulate == 0,
            "batch",
            self.batch,
            f"must divide into accumulate={self.accumulate} micro-batches",
        )
        wanted = "crop" if self.task.kind == "sami" else "prompted"
        require(
            self.data.view.kind == wanted,
            "data.view",
            self.data.view.kind,
            f"the task {self.task.kind!r} reads {wanted!r} views",
        )
        require(
            self.evaluate is None or self.task.kind == "segment",
            "evaluate",
            self.evaluate,
            f"the task {self.task.kind!r} trains no masks to measure: leave it out",
        )
        require(
            self.save.best is None or self.evaluate is not None,
            "save.best",
            self.save.best,
            "nothing is measured in this run: set evaluate, or leave it out",
        )
        measured = None if self.evaluate is None else self.evaluate.every_steps
        apart = measured and measured % self.save.every_steps and self.save.every_steps % measured
        require(
            self.save.best is None or not apart,
            "save.best",
            self.save.best,
            f"a checkpoint every {self.save.every_steps} steps (save.every_steps) is seldom one "
            f"that is measured every {measured} (evaluate.every_steps): let one be a multiple of "
            "the other",
        )
        require(
            self.optim.warmup_steps < self.steps,
            "optim.warmup_steps",
            self.optim.warmup_steps,
            f"must be fewer than steps={self.steps}: lower --optim.warmup-steps",
        )
