"""EfficientSAM's fine-tuning on SA-1B, and the same with all that SAM's training has.

`segment_s` and `segment_s_extended` differ by their model.
"""

import dataclasses

from esam_jax.config import (
    ComputeConfig,
    DataConfig,
    OptimConfig,
    PromptedConfig,
    RunConfig,
    Sa1bConfig,
    SaveConfig,
    SegmentConfig,
)


def segment_ti() -> RunConfig:
    """EfficientSAM-Ti: 5 epochs of SA-1B at batch 128, rate 4e-4 falling linearly, no augmentation.

    Command   esam train segment_ti --workdir runs/segment_ti --data.source.path SA1B \\
                  --task.init-from runs/sami_ti
    Hardware  64 A100-40GB, two pictures each. By arithmetic 4.0 TFLOP a picture (0.6 encoder, the
              rest decoder: six rounds of 64 prompts) x 55 M pictures at 40 % of bf16 peak:
              7.6 hours. Not measured.
    Expected  COCO mIoU 75.7 from a box, 45.5 from one click (published, arXiv:2312.00863, table 4;
              not ours).

    Published (arXiv:2312.00863, section 4.1): epochs, batch, AdamW with betas 0.9 and 0.999, rate
    and its linear decay to 0, weight decay 0.1, no augmentation, 1024 pixels. Losses and first
    prompts are published for SAM (arXiv:2304.02643, section A), whose training it says to follow.
    Assumed: 64 masks a picture (SAM), no warm-up (none is mentioned), and the rounds: the released
    model takes no background points, no masks and six points at most, so that five rounds add a
    foreground click each (four after a box, which is two points), and one without a click would
    repeat the round before.
    """
    return RunConfig(
        name="segment_ti",
        task=SegmentConfig(
            model="efficientsam_ti", clicks=5, click_labels="foreground", answers="candidates"
        ),
        data=DataConfig(
            source=Sa1bConfig(),
            view=PromptedConfig(image_px=1024, fit="stretch", masks=64),
            threads=16,
        ),
        optim=OptimConfig(
            peak_lr=4e-4,
            schedule="linear",
            beta1=0.9,
            beta2=0.999,
            weight_decay=0.1,
        ),
        steps=430_000,
        batch=128,
        compute=ComputeConfig(dtype="bfloat16", remat="blocks"),
        log_every_steps=50,
        save=SaveConfig(every_steps=1000),
    )


def segment_ti_extended() -> RunConfig:
    """EfficientSAM-Ti with background points and mask prompts, in SAM's eleven rounds.

    Command   esam train segment_ti_extended --workdir runs/extended --data.source.path SA1B \\
                  --task.init-from runs/sami_ti
    Hardware  64 A100-40GB, two pictures each. By arithmetic 8.4 TFLOP a picture (0.6 encoder, the
              rest decoder: eleven rounds of 64 prompts) x 55 M pictures at 40 % of bf16 peak:
              16 hours. Not measured.
    Expected  better clicks than `segment_ti`, which nobody has published numbers of.

    `--task.init-from efficientsam_ti` starts from the released model, whose masks it gives before
    the first update. Everything but the model and its rounds is as in `segment_ti`: six points at
    most, too, so that of the eight clicks five find room after a point and four after a box; the
    rounds of the others look at their own mask again.
    Published for SAM (arXiv:2304.02643, section A): the rounds. Assumed: that they fit this model.
    """
    task = SegmentConfig(model="efficientsam_ti_extended", clicks=8, repeats=2)
    return dataclasses.replace(segment_ti(), name="segment_ti_extended", task=task)
