"""Every configuration dataclass, its defaults and its checks.

Model configs (`SamConfig`, `MaeConfig` and what they hold) say what a network is and travel with
its weights; run configs say what to do with it. Keys end in their unit.
"""

import dataclasses
import math
import re
from typing import Literal

from esam_jax.errors import ConfigError


def _require(ok: bool, field: str, value: object, rule: str) -> None:
    if not ok:
        raise ConfigError(f"{field} is {value!r}, but {rule}")


# ---------------------------------------------------------------------------------- networks


@dataclasses.dataclass(frozen=True, kw_only=True)
class VitConfig:
    """Plain ViT image encoder of EfficientSAM (arXiv:2312.00863, section 3)."""

    kind: Literal["vit"] = "vit"
    width: int
    heads: int
    depth: int = 12
    mlp_ratio: int = 4
    patch_px: int = 16
    image_px: int = 1024
    pretrain_px: int = 224  # the position table covers this square, plus one class slot
    neck_width: int = 256

    def __post_init__(self) -> None:
        _check_encoder(self)
        _require(
            self.pretrain_px % self.patch_px == 0,
            "pretrain_px",
            self.pretrain_px,
            f"must be a multiple of patch_px={self.patch_px}",
        )

    @property
    def grid(self) -> int:
        return self.image_px // self.patch_px

    @property
    def pretrain_grid(self) -> int:
        return self.pretrain_px // self.patch_px


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamVitConfig:
    """SAM's windowed ViT image encoder (arXiv:2304.02643; upstream image_encoder.py)."""

    kind: Literal["sam_vit"] = "sam_vit"
    width: int
    heads: int
    depth: int
    global_blocks: tuple[int, ...]
    window: int = 14  # cells
    mlp_ratio: int = 4
    patch_px: int = 16
    image_px: int = 1024
    neck_width: int = 256

    def __post_init__(self) -> None:
        _check_encoder(self)
        _require(
            all(0 <= i < self.depth for i in self.global_blocks),
            "global_blocks",
            self.global_blocks,
            f"each must name one of {self.depth} blocks",
        )

    @property
    def grid(self) -> int:
        return self.image_px // self.patch_px


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyVitConfig:
    """MobileSAM's image encoder (arXiv:2306.14289; upstream tiny_vit_sam.py), one value a stage.

    Stage 0 is convolutional, so its heads and window are not used. Between stages the grid halves,
    except before the last.
    """

    kind: Literal["tiny_vit"] = "tiny_vit"
    widths: tuple[int, ...] = (64, 128, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    all_heads: tuple[int, ...] = (2, 4, 5, 10)
    windows: tuple[int, ...] = (7, 7, 14, 7)
    mlp_ratio: int = 4
    image_px: int = 1024
    neck_width: int = 256

    def __post_init__(self) -> None:
        for field in ("depths", "all_heads", "windows"):
            _require(
                len(getattr(self, field)) == len(self.widths) >= 2,
                field,
                getattr(self, field),
                f"must have one value for each of widths={self.widths}, at least two",
            )
        for field in ("widths", "depths", "all_heads", "windows"):
            value = getattr(self, field)
            _require(min(value) > 0, field, value, "each must be positive")
        for width, heads in zip(self.widths, self.all_heads, strict=True):
            _require(width % heads == 0, "widths", width, f"must divide by {heads}")
        _require(
            self.image_px % self.patch_px == 0,
            "image_px",
            self.image_px,
            f"must be a multiple of {self.patch_px}",
        )

    @property
    def patch_px(self) -> int:
        """Pixels a side of a final cell: the stem divides by 4, each step but the last by 2."""
        return 4 * 2 ** (len(self.widths) - 2)

    @property
    def grid(self) -> int:
        return self.image_px // self.patch_px

    @property
    def depth(self) -> int:
        return sum(self.depths)


EncoderConfig = VitConfig | SamVitConfig | TinyVitConfig


def _check_encoder(config: VitConfig | SamVitConfig) -> None:
    _require(
        config.width % config.heads == 0,
        "width",
        config.width,
        f"must divide into {config.heads} heads",
    )
    _require(
        config.image_px % config.patch_px == 0,
        "image_px",
        config.image_px,
        f"must be a multiple of patch_px={config.patch_px}",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Prompt encoder and two-way mask decoder; `wiring` names which of the two originals.

    `sam` always takes background points and mask prompts. `efficientsam` as released takes neither:
    `background="learned"` and `mask_prompts="learned"` add them, starting at zero, so that a
    released checkpoint keeps its outputs to the bit until it is trained further.
    """

    wiring: Literal["efficientsam", "sam"]
    width: int = 256
    depth: int = 2
    heads: int = 8
    mlp_width: int = 2048
    iou_width: int = 256
    mask_tokens: int = 4  # the first is the single-mask output, the others the candidates
    point_slots: int = 6  # efficientsam pads every prompt to this many points; sam has no limit
    mask_channels: int = 16
    background: Literal["none", "learned"] = "none"
    mask_prompts: Literal["none", "learned"] = "none"

    def __post_init__(self) -> None:
        _require(self.width % 8 == 0, "width", self.width, "must be a multiple of 8")
        _require(
            self.width % (2 * self.heads) == 0,
            "width",
            self.width,
            f"half of it must divide into {self.heads} heads",
        )
        if self.wiring == "sam":
            _require(
                self.background == "learned" and self.mask_prompts == "learned",
                "background, mask_prompts",
                (self.background, self.mask_prompts),
                'the "sam" wiring always has both: say "learned"',
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamConfig:
    """A whole promptable model."""

    encoder: EncoderConfig
    decoder: DecoderConfig

    def __post_init__(self) -> None:
        _require(
            self.encoder.neck_width == self.decoder.width,
            "encoder.neck_width",
            self.encoder.neck_width,
            f"must equal decoder.width={self.decoder.width}",
        )

    @property
    def image_px(self) -> int:
        return self.encoder.image_px

    @property
    def fit(self) -> Literal["stretch", "pad"]:
        """How a picture is brought to the square input: SAM keeps the aspect ratio and pads."""
        return "pad" if self.decoder.wiring == "sam" else "stretch"

    @property
    def low_res_px(self) -> int:
        """Side of the decoder's mask logits: four times the feature grid."""
        return 4 * self.encoder.grid


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaeDecoderConfig:
    """Decoder of MAE pretraining (arXiv:2111.06377; upstream models_mae.py)."""

    width: int = 512
    depth: int = 8
    heads: int = 16
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        _require(
            self.width % self.heads == 0,
            "width",
            self.width,
            f"must divide into {self.heads} heads",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaeConfig:
    """A pretrained ViT: class token, trunk, last norm; with `decoder`, the whole of MAE.

    The encoder's neck is not part of it.
    """

    kind: Literal["mae"] = "mae"
    encoder: VitConfig
    decoder: MaeDecoderConfig | None = None


ModelConfig = SamConfig | MaeConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamiDecoderConfig:
    """Cross-attention decoder of SAMI pretraining (arXiv:2312.00863, sections 3.2 and 4.1)."""

    width: int = 512
    depth: int = 8
    heads: int = 16
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        _require(
            self.width % self.heads == 0,
            "width",
            self.width,
            f"must divide into {self.heads} heads",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """How a network is computed; never changes which parameters it has."""

    dtype: Literal["float32", "bfloat16"] = "float32"  # softmax and norms stay in float32
    precision: Literal["default", "highest"] = "default"  # of float32 matrix products
    attention: Literal["auto", "xla", "chunked", "cudnn"] = "auto"
    remat: Literal["none", "blocks"] = "none"


# -------------------------------------------------------------------------------------- data


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Where examples come from.

    `scenes` draws them (path is None); the others read `path`: an image folder in ImageNet layout,
    a COCO instance json or the image folder beside it, or a folder of `sa_*.jpg` with `sa_*.json`.
    """

    kind: Literal["scenes", "image_folder", "coco", "sa1b"]
    path: str | None = None
    split: Literal["train", "heldout"] = "train"  # of the procedural scenes
    scenes: int = 20_000  # distinct scenes of one split
    scene_px: int = 64

    def __post_init__(self) -> None:
        if self.kind == "scenes":
            _require(self.scenes > 0, "scenes", self.scenes, "at least one is needed")
            _require(self.scene_px >= 32, "scene_px", self.scene_px, "must be at least 32")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CropConfig:
    """Views for SAMI: random resized crop and horizontal flip, nothing else (section 4.1)."""

    kind: Literal["crop"] = "crop"
    image_px: int = 224
    min_scale: float = 0.2  # share of the area; MAE's value
    flip: Literal["none", "horizontal"] = "horizontal"

    def __post_init__(self) -> None:
        _require(0 < self.min_scale <= 1, "min_scale", self.min_scale, "must lie in (0, 1]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptedConfig:
    """Views for promptable training: the whole picture, some of its masks, a first prompt for each.

    First prompts follow SAM, section A: a foreground point or a noisy box with equal chance.
    """

    kind: Literal["prompted"] = "prompted"
    image_px: int = 1024
    fit: Literal["stretch", "pad"] = "stretch"
    masks: int = 64  # drawn per picture; fewer are padded with weight 0
    max_area: float = 0.9  # larger masks are left out, as share of the picture
    min_area_px: int = 16  # smaller masks are left out, in pixels of the model's input
    box_noise: float = 0.1  # standard deviation, as share of the side; at most box_noise_max_px
    box_noise_max_px: float = 20.0
    flip: Literal["none", "horizontal"] = "none"

    def __post_init__(self) -> None:
        _require(self.masks > 0, "masks", self.masks, "at least one is needed")
        _require(0 < self.max_area <= 1, "max_area", self.max_area, "must lie in (0, 1]")
        _require(self.image_px % 8 == 0, "image_px", self.image_px, "must be a multiple of 8")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read, how it is viewed, and how much may be broken."""

    source: SourceConfig
    view: CropConfig | PromptedConfig
    threads: int = 8
    prefetch_batches: int = 4
    max_broken_share: float = 0.1  # of the records read so far, once ten are broken

    def __post_init__(self) -> None:
        for field in ("threads", "prefetch_batches"):
            _require(getattr(self, field) > 0, field, getattr(self, field), "must be positive")
        _require(
            0 <= self.max_broken_share <= 1,
            "max_broken_share",
            self.max_broken_share,
            "must lie in [0, 1]",
        )
        _require(
            not (self.view.kind == "prompted" and self.source.kind == "image_folder"),
            "source.kind",
            self.source.kind,
            "prompted views need masks: read scenes, coco or sa1b",
        )


# ------------------------------------------------------------------------------------- tasks


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """The frozen SAM image encoder whose features are reconstructed.

    `weights` is anything `esam_jax.load` takes, or the word "random" for a dry run; None is an
    error.
    `features`: after the neck, or the trunk before it. `view`: the student's own pixels, or those
    enlarged to the teacher's input size, with the features pooled back to the student's grid.
    """

    model: str = "sam_h"
    weights: str | None = None
    features: Literal["neck", "trunk"] = "neck"
    view: Literal["native", "enlarged"] = "native"
    placement: Literal["replicated", "fsdp"] = "replicated"  # whole on every device, or in pieces


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamiConfig:
    """SAMI: reconstruct the features of a frozen teacher from a quarter of the patches."""

    kind: Literal["sami"] = "sami"
    students: tuple[str, ...]  # names in models/variants.py, trained from one teacher pass
    init_from: str | None = None  # MAE's weights, a model or a run: the students' trunks
    teacher: TeacherConfig = TeacherConfig()
    decoder: SamiDecoderConfig = SamiDecoderConfig()
    mask_ratio: float = 0.75
    loss: Literal["mse", "cosine"] = "mse"

    def __post_init__(self) -> None:
        _require(len(self.students) > 0, "students", self.students, "at least one is needed")
        _require(
            len(set(self.students)) == len(self.students),
            "students",
            self.students,
            "each may be named once",
        )
        _require(0 < self.mask_ratio < 1, "mask_ratio", self.mask_ratio, "must lie in (0, 1)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """Promptable segmentation: three masks a prompt, the loss of the best one (SAM, section A)."""

    kind: Literal["segment"] = "segment"
    model: str = "efficientsam_ti"  # a name in models/variants.py
    init_from: str | None = None  # a model or a run; whatever it was trained for is taken over
    decoder_from: str | None = None  # a SAM; its prompt encoder and mask decoder are taken over
    focal_weight: float = 20.0
    dice_weight: float = 1.0
    iou_weight: float = 1.0
    loss_at: Literal["low_res", "image"] = "low_res"  # where logits and masks are compared
    scored_masks: Literal["best", "all"] = "best"  # whose predicted IoU is trained


TaskConfig = SamiConfig | SegmentConfig


# --------------------------------------------------------------------------------------- run


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
        _require(self.peak_lr > 0, "peak_lr", self.peak_lr, "must be positive")
        for field in ("warmup_steps", "final_lr", "weight_decay"):
            _require(getattr(self, field) >= 0, field, getattr(self, field), "must not be negative")
        for field in ("beta1", "beta2"):
            value = getattr(self, field)
            _require(0 <= value < 1, field, value, "must lie in [0, 1)")
        _require(self.eps > 0, "eps", self.eps, "must be positive")
        _require(
            self.clip_norm is None or self.clip_norm > 0,
            "clip_norm",
            self.clip_norm,
            "must be positive, or None for no clipping",
        )
        if self.layer_decay is not None:
            _require(
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
            _require(getattr(self, field) > 0, field, getattr(self, field), "must be positive")
        _require(
            self.every_steps is None or self.every_steps > 0,
            "every_steps",
            self.every_steps,
            "must be positive, or None for the end only",
        )
        _require(
            self.source.kind != "image_folder",
            "source.kind",
            self.source.kind,
            "a measurement needs masks: read scenes, coco or sa1b",
        )


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
        _require(self.every_steps > 0, "every_steps", self.every_steps, "must be positive")
        _require(self.keep >= 2, "keep", self.keep, "must be at least 2: one may be damaged")


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
            _require(value > 0, field, value, "must be positive")
        _require(
            self.max_rollbacks >= 0, "max_rollbacks", self.max_rollbacks, "must not be negative"
        )
        _require(
            self.spike is None or self.spike > 1,
            "spike",
            self.spike,
            "must be above 1, or None for no rollback",
        )
        for field in ("checksum_every_steps", "hang_seconds"):
            value = getattr(self, field)
            rule = "must be positive, or None to do without"
            _require(value is None or value > 0, field, value, rule)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """Which updates are traced to `<workdir>/profile` (read it with xprof or Perfetto)."""

    first_step: int | None = None  # None: none
    steps: int = 5

    def __post_init__(self) -> None:
        _require(self.steps > 0, "steps", self.steps, "must be positive")


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
            _require(value is None or value > 0, field, value, "must be positive")
        _require(
            self.coordinator is None or re.fullmatch(r".+:\d+", self.coordinator) is not None,
            "coordinator",
            self.coordinator,
            "must be HOST:PORT",
        )
        _require(
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
            _require(getattr(self, field) > 0, field, getattr(self, field), "must be positive")
        _require(0 <= self.seed < 2**32, "seed", self.seed, "must lie in [0, 2**32)")
        _require(
            self.batch % self.accumulate == 0,
            "batch",
            self.batch,
            f"must divide into accumulate={self.accumulate} micro-batches",
        )
        wanted = "crop" if self.task.kind == "sami" else "prompted"
        _require(
            self.data.view.kind == wanted,
            "data.view",
            self.data.view.kind,
            f"the task {self.task.kind!r} reads {wanted!r} views",
        )
        _require(
            self.evaluate is None or self.task.kind == "segment",
            "evaluate",
            self.evaluate,
            f"the task {self.task.kind!r} trains no masks to measure: leave it out",
        )
        _require(
            self.save.best is None or self.evaluate is not None,
            "save.best",
            self.save.best,
            "nothing is measured in this run: set evaluate, or leave it out",
        )
        measured = None if self.evaluate is None else self.evaluate.every_steps
        apart = measured and measured % self.save.every_steps and self.save.every_steps % measured
        _require(
            self.save.best is None or not apart,
            "save.best",
            self.save.best,
            f"a checkpoint every {self.save.every_steps} steps (save.every_steps) is seldom one "
            f"that is measured every {measured} (evaluate.every_steps): let one be a multiple of "
            "the other",
        )
        _require(
            self.optim.warmup_steps < self.steps,
            "optim.warmup_steps",
            self.optim.warmup_steps,
            f"must be fewer than steps={self.steps}: lower --optim.warmup-steps",
        )
