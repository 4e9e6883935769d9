"""What is learned."""

import dataclasses
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from esam_jax.config.networks import PretrainDecoderConfig
from esam_jax.config.rules import (
    MAY_DIFFER,
    Config,
    above,
    at_least,
    at_most,
    below,
    distinct,
    local,
    some,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TrainedConfig(Config):
    """What every task has.

    `reads` are the kinds of its views, `measures` what an evaluation reports (more is better),
    `measured_on` the annotations that this needs.
    """

    reads: ClassVar[tuple[str, ...]]
    measures: ClassVar[tuple[str, ...]] = ()
    measured_on: ClassVar[frozenset[str]] = frozenset()
    # A model or a run whose weights are taken over, as far as they fit the task.
    init_from: Annotated[str | None, local(), MAY_DIFFER] = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherConfig(Config):
    """The frozen network whose features are reconstructed or regressed.

    `model` of models/named.py: the image encoder of a SAM (sam_*) or of CLIP (clip_*), or a plain
    ViT (mae_*), whose weights may be a pretrained ViT's, a classifier's or those of a run of SAMI.
    `weights` is a model folder, run or file of one, or the word "random" for a dry run; None is an
    error.
    `features`, of a SAM alone: after the neck, or the trunk before it; CLIP and plain ViTs have
    theirs after the last norm. `view`: the student's own pixels, or those resized to the teacher's
    input size, with the features pooled back to the student's grid. `placement`: complete on every
    device, or in pieces.
    """

    model: str = "sam_h"
    weights: Annotated[str | None, local(), MAY_DIFFER] = None
    features: Literal["neck", "trunk"] = "neck"
    view: Literal["native", "enlarged"] = "native"
    placement: Annotated[Literal["replicated", "fsdp"], MAY_DIFFER] = "replicated"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamiConfig(_TrainedConfig):
    """SAMI: reconstruct the features of a frozen teacher from a quarter of the patches.

    The paper's ablations are values here (arXiv:2312.00863, section 4.4). `queries` of the decoder:
    the masked tokens, which look at all tokens, or all tokens, as in MAE's decoder. `loss_on`: the
    tokens whose features are compared, all or the masked ones alone.
    `init_from` holds the students' encoders: a run or model of SAMI, MAE or classification.
    """

    kind: ClassVar[Literal["sami"]] = "sami"
    reads: ClassVar[tuple[str, ...]] = ("crop",)
    students: Annotated[tuple[str, ...], some(), distinct("name each once")]  # of models/named.py
    teacher: TeacherConfig = TeacherConfig()
    decoder: PretrainDecoderConfig = PretrainDecoderConfig()
    mask_ratio: Annotated[float, above(0), below(1)] = 0.75  # of the patches
    queries: Literal["masked", "all"] = "masked"
    loss: Literal["mse", "cosine"] = "mse"
    loss_on: Literal["all", "masked"] = "all"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignConfig(Config):
    """The frozen MAE that features inside of the student resemble (DMAE, arXiv:2208.12256).

    `weights` is anything `esam_jax.load` takes, or the word "random" for a dry run; None is an
    error. What is compared are the tokens after so many blocks of each; None is three quarters.
    """

    model: str = "mae_l"  # of models/named.py
    weights: Annotated[str | None, local(), MAY_DIFFER] = None
    student_blocks: Annotated[int | None, at_least(1)] = None
    teacher_blocks: Annotated[int | None, at_least(1)] = None
    loss: Literal["mse", "l1", "cosine", "unit_mse", "unit_l1"] = "unit_l1"  # of the features
    weight: Annotated[float, above(0)] = 1.0  # of it, beside the loss on pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaePretrainConfig(_TrainedConfig):
    """MAE: rebuild the pixels of the patches that were removed (arXiv:2111.06377).

    `target`: the pixels of each patch less their mean and divided by their deviation, or as
    `ops.images.normalise` gives them. `loss_on`: the removed patches, or all. `positions`: the
    sine-cosine code in both halves, which nothing changes, or learned from it. `align` makes it
    DMAE.
    `init_from` holds a model or a run of MAE, or the encoder of one of SAMI or classification.
    """

    kind: ClassVar[Literal["mae"]] = "mae"
    reads: ClassVar[tuple[str, ...]] = ("crop",)
    model: str = "mae_b"  # of models/named.py: its encoder
    decoder: PretrainDecoderConfig = PretrainDecoderConfig()
    mask_ratio: Annotated[float, above(0), below(1)] = 0.75  # of the patches
    target: Literal["standardised", "plain"] = "standardised"
    loss_on: Literal["masked", "all"] = "masked"
    positions: Literal["fixed", "learned"] = "fixed"
    align: AlignConfig | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextPromptConfig(Config):
    """The frozen CLIP whose features of an object are its first prompt in training, and whose
    features of a text are a prompt afterwards.

    `weights` is anything `esam_jax.load_clip` takes, or the word "random" for a dry run; None is an
    error.
    """

    model: str = "clip_l_14_336"  # of models/named.py
    weights: Annotated[str | None, local(), MAY_DIFFER] = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentConfig(_TrainedConfig):
    """Promptable segmentation: three masks a prompt, the loss of the best one (SAM, section A).

    After the first prompt come `clicks` where the mask is wrong, and `repeats` without a click, of
    which one is the last round and another at a random place among the clicks. `click_labels`: both
    kinds, or the foreground alone, for a model that takes no background points. `answers` after the
    first round: the single mask, or the candidates again.

    `train`: all parameters, the prompt encoder and mask decoder, or low-rank pairs on the attention
    of the image encoder (LoRA, arXiv:2106.09685); the latter two need `init_from`.
    """

    kind: ClassVar[Literal["segment"]] = "segment"
    reads: ClassVar[tuple[str, ...]] = ("prompted",)
    measures: ClassVar[tuple[str, ...]] = ("box_miou", "point_miou", "miou")
    measured_on: ClassVar[frozenset[str]] = frozenset({"masks"})
    model: str = "efficientsam_ti"  # a name in models/named.py
    text: TextPromptConfig | None = None  # the first prompts, in place of points and boxes
    # A SAM, whose decoder is taken over.
    decoder_from: Annotated[str | None, local(), MAY_DIFFER] = None
    focal_weight: Annotated[float, at_least(0)] = 20.0  # of the focal loss
    dice_weight: Annotated[float, at_least(0)] = 1.0  # of the dice loss
    iou_weight: Annotated[float, at_least(0)] = 1.0  # of the squared error of the predicted IoU
    loss_at: Literal["low_res", "image"] = "low_res"  # where logits and masks are compared
    scored_masks: Literal["best", "all"] = "best"  # whose predicted IoU is trained
    clicks: Annotated[int, at_least(0)] = 0  # rounds with a new click; SAM has 8
    repeats: Annotated[int, at_least(0), at_most(2)] = 0  # rounds without; SAM has 2
    click_labels: Literal["both", "foreground"] = "both"
    answers: Literal["single", "candidates"] = "single"
    rounds_as: Literal["sum", "mean"] = "sum"  # of the losses of all rounds
    train: Literal["all", "decoder", "lora"] = "all"
    lora_rank: Annotated[int, at_least(1)] = 8
    lora_alpha: Annotated[float, above(0)] = 16.0  # products of pairs count alpha / rank times
    # Chance that a branch of the encoder's last block is left out; it rises evenly from block to
    # block.
    drop_path: Annotated[float, at_least(0), below(1)] = 0.0
    # The statistics of a TinyViT's norms: those of few pictures are poor.
    batch_norm: Literal["stored", "batch"] = "stored"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillConfig(_TrainedConfig):
    """Distillation: a student regresses the features that a frozen teacher has of the same pixels.

    `coupling` is what becomes of the teacher's prompt encoder and mask decoder (MobileSAM,
    arXiv:2306.14289, section 3.2). "decoupled": the student gets them, frozen, and only embeddings
    are compared. "semi": the loss on masks, through the frozen decoder, too. "coupled": the decoder
    is trained with it. "features": the student gets none, as in pretraining at 224 pixels.
    `student_features`, of that kind of coupling alone: what of the student is compared, the trunk
    or a neck of another width through a linear map; None is what is taken of the teacher.
    `init_from` holds the student's encoder.
    """

    kind: ClassVar[Literal["distill"]] = "distill"
    reads: ClassVar[tuple[str, ...]] = ("framed", "prompted", "crop")
    measures: ClassVar[tuple[str, ...]] = ("box_miou", "point_miou", "miou")
    measured_on: ClassVar[frozenset[str]] = frozenset({"masks"})
    student: str = "mobile_sam"  # of models/named.py: its encoder
    teacher: TeacherConfig = TeacherConfig()
    coupling: Literal["features", "decoupled", "semi", "coupled"] = "decoupled"
    student_features: Literal["neck", "trunk"] | None = None
    loss: Literal["mse", "l1", "cosine", "unit_mse", "unit_l1"] = "mse"  # of the features
    feature_weight: Annotated[float, at_least(0)] = 1.0  # of it, beside a loss on masks
    loss_at: Literal["low_res", "image"] = "low_res"  # where masks are compared, if they are
    batch_norm: Literal["batch", "stored"] = "batch"  # the statistics of a TinyViT's norms


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassTeacherConfig(Config):
    """The frozen classifier whose answers the head of a distillation token learns (DeiT,
    arXiv:2012.12877, section 4; upstream losses.py).

    `weights` is a classifier of the same classes: a run, a model folder or a file of timm's names;
    or the word "random" for a dry run; None is an error. `model` is the network of a dry run or a
    plan, and what `weights` must hold; None: whatever they hold.
    `labels`: its likeliest class, or its distribution, which is softened by `temperature` as the
    student's is. `share` of the loss is this one, the rest that of the true labels.
    """

    model: str | None = None  # of models/named.py
    weights: Annotated[str | None, local(), MAY_DIFFER] = None
    labels: Literal["hard", "soft"] = "hard"
    temperature: Annotated[float, above(0)] = 1.0
    share: Annotated[float, above(0), at_most(1)] = 0.5

    def across(self) -> Iterator[tuple[str, str]]:
        if self.labels == "hard" and self.temperature != 1:
            yield "temperature", 'is of soft labels: write labels="soft", or leave it out'


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifyConfig(_TrainedConfig):
    """Classification by a plain ViT: cross-entropy with labels that are smoothed and mixed.

    Of mixup and cutmix one is drawn for each batch where both are on, with even chances.
    `init_from` holds the encoder: a run or model of SAMI, MAE or classification. "distilled" pools
    a class token and a distillation token, each with a head, of which the second learns from the
    `teacher`.
    """

    kind: ClassVar[Literal["classify"]] = "classify"
    reads: ClassVar[tuple[str, ...]] = ("classified",)
    measures: ClassVar[tuple[str, ...]] = ("top1", "top5")
    measured_on: ClassVar[frozenset[str]] = frozenset({"label"})
    model: str = "efficientsam_ti"  # of models/named.py: its encoder
    pool: Literal["mean", "class_token", "distilled"] = "mean"  # what the head reads
    teacher: ClassTeacherConfig | None = None
    smoothing: Annotated[float, at_least(0), below(1)] = 0.1  # the mass spread over all classes
    mixup: Annotated[float, at_least(0)] = 0.8  # both parameters of the Beta distribution; 0: none
    cutmix: Annotated[float, at_least(0)] = 1.0  # as mixup's
    # Chance that a branch of the last block is left out; it rises evenly from block to block.
    drop_path: Annotated[float, at_least(0), below(1)] = 0.0


TaskConfig = SamiConfig | MaePretrainConfig | SegmentConfig | DistillConfig | ClassifyConfig
