"""The ablations of SAMI: one config for each cell of arXiv:2312.00863, tables 6 and 7, section 4.4.

Each is `sami_ti`, `sami_s` or `sami_b` but for one value, and is worth what `classify_ti`,
`classify_s` or `classify_b` makes of it, with `--task.init-from runs/NAME`.
"""

import dataclasses
from typing import Any

from esam_jax.config import RunConfig, TeacherConfig

from .sami_b import sami_b
from .sami_s import sami_s
from .sami_ti import sami_ti


def sami_ti_cosine() -> RunConfig:
    """SAMI-Ti with the loss 1 - cosine similarity in place of the squared error.

    Command   esam train sami_ti_cosine --workdir runs/sami_ti_cosine \\
                  --data.source.path IMAGENET/train --task.teacher.weights sam_vit_h_4b8939.pth
    Hardware  as `sami_ti`: 64 A100 for 3.6 hours by arithmetic. Not measured.
    Expected  76.1 % ImageNet top-1 after fine-tuning, where the squared error has 76.8 %
              (published, not ours: arXiv:2312.00863, table 6).

    Published: the loss. Assumed: the mean over tokens, and all else as in `sami_ti`.
    """
    return _changed(sami_ti(), "sami_ti_cosine", loss="cosine")


def sami_s_cosine() -> RunConfig:
    """SAMI-S with the loss 1 - cosine similarity in place of the squared error.

    Command   esam train sami_s_cosine --workdir runs/sami_s_cosine \\
                  --data.source.path IMAGENET/train --task.teacher.weights sam_vit_h_4b8939.pth
    Hardware  as `sami_s`: 64 A100 for 3.7 hours by arithmetic. Not measured.
    Expected  82.3 % ImageNet top-1 after fine-tuning, where the squared error has 82.7 %
              (published, not ours: arXiv:2312.00863, table 6).

    Published and assumed: as in `sami_ti_cosine`.
    """
    return _changed(sami_s(), "sami_s_cosine", loss="cosine")


def sami_b_mask_50() -> RunConfig:
    """SAMI-B with half of the patches masked: 98 of 196 are visible, in place of 49.

    Command   esam train sami_b_mask_50 --workdir runs/sami_b_mask_50 \\
                  --data.source.path IMAGENET/train --task.teacher.weights sam_vit_h_4b8939.pth
    Hardware  64 A100. By arithmetic 325 GFLOP an image x 512 M images at 55 % of bf16 peak:
              4.2 hours. Not measured.
    Expected  84.6 % ImageNet top-1 after fine-tuning, where 75 % masked has 84.8 % (published, not
              ours: arXiv:2312.00863, table 7).

    Published: the ratio. Assumed: the size, since 84.8 % is the figure of SAMI-B and table 7 does
    not name it; the count of patches is rounded as MAE's.
    """
    return _changed(sami_b(), "sami_b_mask_50", mask_ratio=0.5)


def sami_b_mask_85() -> RunConfig:
    """SAMI-B with 85 % of the patches masked: 29 of 196 are visible, in place of 49.

    Command   esam train sami_b_mask_85 --workdir runs/sami_b_mask_85 \\
                  --data.source.path IMAGENET/train --task.teacher.weights sam_vit_h_4b8939.pth
    Hardware  64 A100. By arithmetic 297 GFLOP an image x 512 M images at 55 % of bf16 peak:
              3.9 hours. Not measured.
    Expected  84.7 % ImageNet top-1 after fine-tuning, where 75 % masked has 84.8 % (published, not
              ours: arXiv:2312.00863, table 7).

    Published and assumed: as in `sami_b_mask_50`.
    """
    return _changed(sami_b(), "sami_b_mask_85", mask_ratio=0.85)


def sami_ti_all_tokens() -> RunConfig:
    """SAMI-Ti with MAE's decoder, which transforms all tokens, in place of the masked ones alone.

    Command   esam train sami_ti_all_tokens --workdir runs/sami_ti_all_tokens \\
                  --data.source.path IMAGENET/train --task.teacher.weights sam_vit_h_4b8939.pth
    Hardware  64 A100. By arithmetic 288 GFLOP an image x 512 M images at 55 % of bf16 peak:
              3.7 hours. Not measured.
    Expected  about 73.8 % ImageNet top-1 after fine-tuning (inferred: arXiv:2312.00863, section
              4.4, has SAMI's 76.8 % "3 %" above it and no table; not ours).

    Published: all tokens go through the decoder, as in MAE. Assumed: that decoder is MAE's own, 8
    blocks of self-attention, 512 wide, in which the class token takes part and is left out at the
    end; all else as in `sami_ti`.
    """
    return _changed(sami_ti(), "sami_ti_all_tokens", queries="all")


def sami_ti_masked_loss() -> RunConfig:
    """SAMI-Ti with the loss on masked tokens alone, as in MAE, in place of all tokens.

    Command   esam train sami_ti_masked_loss --workdir runs/sami_ti_masked_loss \\
                  --data.source.path IMAGENET/train --task.teacher.weights sam_vit_h_4b8939.pth
    Hardware  as `sami_ti`: 64 A100 for 3.6 hours by arithmetic. Not measured.
    Expected  not published: the paper chooses the loss on all tokens (section 3.2, equation 1) and
              gives no figure without it.

    Assumed: all else as in `sami_ti`.
    """
    return _changed(sami_ti(), "sami_ti_masked_loss", loss_on="masked")


def sami_ti_clip() -> RunConfig:
    """SAMI-Ti with the features of CLIP's ViT-B/16 as the target, in place of those of SAM's ViT-H.

    Command   esam train sami_ti_clip --workdir runs/sami_ti_clip \\
                  --data.source.path IMAGENET/train --task.teacher.weights ViT-B-16.pt
    Hardware  8 A100. By arithmetic 62 GFLOP an image (35 of them the teacher's) x 512 M images at
              55 % of bf16 peak: 6.4 hours; the data is the limit. Not measured.
    Expected  about 76.0 % ImageNet top-1 after fine-tuning (inferred: arXiv:2312.00863, section
              4.4, has it 0.8 above MAE's 75.2 %; not ours).

    Published: features of CLIP are the target. Assumed: which of its encoders (ViT-B/16 has the
    students' 14 x 14 cells at 224 pixels), its layer (patch tokens after the last norm, before the
    projection), and all else as in `sami_ti`.
    """
    teacher = TeacherConfig(model="clip_b_16")
    return _changed(sami_ti(), "sami_ti_clip", teacher=teacher)


def _changed(run: RunConfig, name: str, **task: Any) -> RunConfig:
    return dataclasses.replace(run, name=name, task=dataclasses.replace(run.task, **task))
