"""What is learned."""

import dataclasses
from typing import Literal

from esam_jax.config.networks import SamiDecoderConfig
from esam_jax.config.rules import require


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
    students: tuple[str, ...]  # names in models/named.py, trained from one teacher pass
    init_from: str | None = None  # MAE's weights, a model or a run: the students' trunks
    teacher: TeacherConfig = TeacherConfig()
    decoder: SamiDecoderConfig = SamiDecoderConfig()
    mask_ratio: float = 0.75
    loss: Literal["mse", "cosine"] = "mse"

    def __post_init__(self) -> None:
        require(len(self.students) > 0, "students", self.students, "at least one is needed")
        require(
            len(set(self.students)) == len(self.students),
            "students",
            self.students,
            "each may be named once",
        )
        require(0 < self.mask_ratio < 1, "mask_ratio", self.mask_ratio, "must lie in (0, 1)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """Promptable segmentation: three masks a prompt, the loss of the best one (SAM, section A)."""

    kind: Literal["segment"] = "segment"
    model: str = "efficientsam_ti"  # a name in models/named.py
    init_from: str | None = None  # a model or a run; whatever it was trained for is taken over
    decoder_from: str | None = None  # a SAM; its prompt encoder and mask decoder are taken over
    focal_weight: float = 20.0
    dice_weight: float = 1.0
    iou_weight: float = 1.0
    loss_at: Literal["low_res", "image"] = "low_res"  # where logits and masks are compared
    scored_masks: Literal["best", "all"] = "best"  # whose predicted IoU is trained


TaskConfig = SamiConfig | SegmentConfig
