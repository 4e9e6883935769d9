"""The quickstart: SAMI, fine-tuning and a twin from scratch on procedural scenes, on a laptop CPU.

`esam quickstart` runs the last three and measures them; the teacher ships with the package.
"""

import dataclasses

from esam_jax.config import (
    AlignConfig,
    ClassifiedConfig,
    ClassifyConfig,
    CropConfig,
    DataConfig,
    DistillConfig,
    EvaluateConfig,
    FramedConfig,
    MaePretrainConfig,
    OptimConfig,
    PretrainDecoderConfig,
    PromptedConfig,
    RandAugmentConfig,
    RunConfig,
    SamiConfig,
    SaveConfig,
    ScenesConfig,
    SegmentConfig,
    TeacherConfig,
)

_PX = 64
_TEACHER = "quickstart_teacher"
_TRAIN = ScenesConfig(split="train", scene_px=_PX)
_HELD_OUT = ScenesConfig(split="heldout", scene_px=_PX)


def quickstart_teacher() -> RunConfig:
    """The frozen nano SAM that ships with the package as `quickstart_teacher`.

    Command   esam train quickstart_teacher --workdir runs/quickstart_teacher
    Hardware  one CPU core for an hour and three quarters: so were the shipped weights made.
    Expected  box mIoU 0.865 and one-point mIoU 0.818 on 200 held-out scenes (measured).
    """
    return RunConfig(
        name="quickstart_teacher",
        task=SegmentConfig(model="sam_nano", loss_at="image", scored_masks="all"),
        data=DataConfig(
            source=dataclasses.replace(_TRAIN, scenes=600_000),
            view=PromptedConfig(image_px=_PX, fit="pad", masks=4, flip="horizontal"),
            threads=1,
        ),
        optim=OptimConfig(
            peak_lr=2e-3,
            schedule="cosine",
            warmup_steps=300,
            weight_decay=0.05,
            clip_norm=1.0,
        ),
        steps=34_000,
        batch=16,
        evaluate=EvaluateConfig(source=_HELD_OUT, images=200, every_steps=4000),
        log_every_steps=100,
        save=SaveConfig(every_steps=1000),
    )


def quickstart_clicks() -> RunConfig:
    """The model of `quickstart_teacher`, taught to be corrected: ships as `quickstart_clicks`.

    Command   esam train quickstart_clicks --workdir runs/quickstart_clicks \\
                  --task.init-from runs/quickstart_teacher
    Hardware  half a CPU core for an hour and a half: so were the shipped weights made.
    Expected  on 200 held-out scenes mIoU 0.858 from a box, and 0.859, 0.891 and 0.896 from one,
              three and five clicks, each at the deepest place of what is wrong (measured).

    Six rounds: what a person does with a picture of 64 pixels needs no eleven.
    """
    run = quickstart_teacher()
    return dataclasses.replace(
        run,
        name="quickstart_clicks",
        task=dataclasses.replace(run.task, clicks=4, repeats=1),
        optim=dataclasses.replace(run.optim, peak_lr=5e-4, warmup_steps=100),
        steps=4000,
        evaluate=EvaluateConfig(source=_HELD_OUT, images=200, every_steps=1000),
        save=SaveConfig(every_steps=500),
    )


def quickstart_sami() -> RunConfig:
    """SAMI for the nano student, from the shipped teacher.

    Command   esam train quickstart_sami --workdir runs/sami
    Hardware  2 CPU cores.
    Expected  a falling reconstruction loss; `quickstart_segment` shows what it is worth.

    Views are not cropped, as those of fine-tuning are not: objects keep the size they will have.
    """
    return RunConfig(
        name="quickstart_sami",
        task=SamiConfig(
            students=("efficientsam_nano",),
            teacher=TeacherConfig(model="sam_nano", weights=_TEACHER),
            decoder=PretrainDecoderConfig(width=64, depth=2, heads=2),
        ),
        data=DataConfig(source=_TRAIN, view=CropConfig(image_px=_PX, min_scale=1.0), threads=1),
        optim=OptimConfig(
            peak_lr=2e-3,
            schedule="cosine",
            warmup_steps=50,
            beta2=0.95,
            weight_decay=0.05,
        ),
        steps=4000,
        batch=32,
        log_every_steps=50,
        save=SaveConfig(every_steps=1000),
    )


def quickstart_mae() -> RunConfig:
    """MAE for the nano student: what `quickstart_sami` is compared with.

    Command   esam train quickstart_mae --workdir runs/mae
    Hardware  2 CPU cores.
    Expected  a loss of 0.46, where the mean patch costs 0.92; after `quickstart_segment` from it
              box mIoU 0.649 and 0.669, one-point mIoU 0.539 and 0.570 (seeds 0 and 1 of the latter,
              200 held-out scenes; measured), 0.644 and 0.490 from scratch (seed 0).

    Views, steps, optimiser and decoder are those of `quickstart_sami`: assumed to suit both.
    """
    run = quickstart_sami()
    return dataclasses.replace(
        run,
        name="quickstart_mae",
        task=MaePretrainConfig(
            model="mae_nano", decoder=PretrainDecoderConfig(width=64, depth=2, heads=2)
        ),
    )


def quickstart_classify() -> RunConfig:
    """Classification of scenes by the outline of their main object, from scratch or pretrained.

    Command   esam train quickstart_classify --workdir runs/classify
    Hardware  2 CPU cores.
    Expected  a rising share of six classes on held-out scenes; `esam study` compares what it starts
              from, and what prompts make of it: supervised pretraining.

    Views are those of `quickstart_sami`; labels are smoothed, and nothing is mixed or erased: that
    would hide the small objects whose outline is the class.
    """
    run = quickstart_sami()
    return dataclasses.replace(
        run,
        name="quickstart_classify",
        task=ClassifyConfig(model="efficientsam_nano", pool="mean", mixup=0.0, cutmix=0.0),
        data=dataclasses.replace(
            run.data,
            view=ClassifiedConfig(
                image_px=_PX,
                classes=6,
                min_scale=1.0,
                rand_augment=RandAugmentConfig(operations=0),
                erasing=0.0,
            ),
        ),
        evaluate=EvaluateConfig(source=_HELD_OUT, images=2000),
    )


def quickstart_dmae() -> RunConfig:
    """DMAE for the nano student: as `quickstart_mae`, beside the features of a trained MAE.

    Command   esam train quickstart_dmae --workdir runs/dmae --task.align.weights runs/mae
    Hardware  2 CPU cores.
    Expected  falling losses, on pixels and of the alignment.

    The teacher has the size of the student: nothing larger is pretrained in miniature.
    """
    run = quickstart_mae()
    task = dataclasses.replace(run.task, align=AlignConfig(model="mae_nano"))
    return dataclasses.replace(run, name="quickstart_dmae", task=task)


def quickstart_regress() -> RunConfig:
    """Plain feature regression for the nano student: `quickstart_sami` without its masking.

    Command   esam train quickstart_regress --workdir runs/regress
    Hardware  2 CPU cores.
    Expected  a falling feature loss; `quickstart_segment` shows what it is worth.

    The trunk sees every patch, and a linear map takes it to the teacher's features. Views, steps
    and optimiser are those of `quickstart_sami`.
    """
    run = quickstart_sami()
    return dataclasses.replace(
        run,
        name="quickstart_regress",
        task=DistillConfig(
            student="efficientsam_nano",
            teacher=TeacherConfig(model="sam_nano", weights=_TEACHER),
            coupling="features",
            student_features="trunk",
        ),
    )


def quickstart_segment() -> RunConfig:
    """Promptable fine-tuning of the nano student, from SAMI as `--task.init-from` names it.

    Command   esam train quickstart_segment --workdir runs/segment --task.init-from runs/sami
    Hardware  2 CPU cores.
    Expected  better than `quickstart_scratch` after as many steps: that is the paper's claim.
    """
    return dataclasses.replace(quickstart_scratch(), name="quickstart_segment")


def quickstart_scratch() -> RunConfig:
    """As `quickstart_segment`, from scratch: the twin that SAMI is compared with.

    Command   esam train quickstart_scratch --workdir runs/scratch
    Hardware  2 CPU cores.
    Expected  worse than `quickstart_segment`.

    Both get the teacher's prompt encoder and mask decoder, so that what they differ by is the
    encoder: a decoder from scratch takes most of such a short run to learn anything at all.
    """
    return RunConfig(
        name="quickstart_scratch",
        task=SegmentConfig(
            model="efficientsam_nano",
            decoder_from=_TEACHER,
            loss_at="image",
            scored_masks="all",
        ),
        data=DataConfig(
            source=_TRAIN,
            view=PromptedConfig(image_px=_PX, fit="stretch", masks=4, flip="horizontal"),
            threads=1,
        ),
        optim=OptimConfig(
            peak_lr=2e-3,
            schedule="cosine",
            warmup_steps=50,
            weight_decay=0.05,
            clip_norm=1.0,
        ),
        steps=160,
        batch=16,
        log_every_steps=20,
        save=SaveConfig(every_steps=160),
    )


def quickstart_distill() -> RunConfig:
    """MobileSAM's recipe in small: a TinyViT learns the embedding of the shipped teacher.

    Command   esam train quickstart_distill --workdir runs/distill
    Hardware  one CPU core for 17 minutes (of processor time).
    Expected  box mIoU 0.800 and one-point mIoU 0.742 on 200 held-out scenes, 92 % and 91 % of the
              teacher's 0.865 and 0.818; embedding_mse 0.035 (measured).
    """
    return RunConfig(
        name="quickstart_distill",
        task=DistillConfig(
            student="mobile_sam_nano",
            teacher=TeacherConfig(model="sam_nano", weights=_TEACHER),
        ),
        data=DataConfig(
            source=dataclasses.replace(_TRAIN, scenes=200_000),
            view=FramedConfig(image_px=_PX, fit="pad", flip="horizontal"),
            threads=1,
        ),
        optim=OptimConfig(
            peak_lr=2e-3,
            schedule="cosine",
            warmup_steps=100,
            weight_decay=0.05,
            clip_norm=1.0,
        ),
        steps=3000,
        batch=32,
        evaluate=EvaluateConfig(source=_HELD_OUT, images=200, every_steps=500),
        log_every_steps=50,
        save=SaveConfig(every_steps=1000),
    )
