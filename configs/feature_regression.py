"""Plain feature regression at 224 pixels: what masking is worth, as `regress_*` beside `sami_*`."""

import dataclasses

from esam_jax.config import DistillConfig, RunConfig

from .sami_ti import sami_ti


def regress_ti() -> RunConfig:
    """ViT-Ti regresses the features of SAM's ViT-H, from every patch: `sami_ti` without masking.

    Command   esam train regress_ti --workdir runs/regress_ti --data.source.path IMAGENET/train \\
                  --task.teacher.weights sam_vit_h_4b8939.pth
    Hardware  64 A100. By arithmetic 262 GFLOP an image (254 of them the teacher's) x 512 M images
              at 55 % of bf16 peak: 3.4 hours; 27 hours on 8. Not measured.
    Expected  not published: EfficientSAM compares SAMI with other methods, never with SAMI without
              its masking. DMAE, which regresses features from masked pictures, has 70.0 % ImageNet
              top-1 for ViT-Ti (arXiv:2312.00863, table 1; not ours).

    Published: nothing. Assumed: all of `sami_ti` (teacher, its input and layer, views, optimiser,
    schedule), so that the masking, and the decoder that only masking needs, are what is compared.
    The trunk takes part without class token and without a last norm.
    """
    return _regress("regress_ti", "efficientsam_ti")


def regress_s() -> RunConfig:
    """ViT-S regresses the features of SAM's ViT-H, as `regress_ti`.

    Command   esam train regress_s --workdir runs/regress_s --data.source.path IMAGENET/train \\
                  --task.teacher.weights sam_vit_h_4b8939.pth
    Hardware  64 A100. By arithmetic 282 GFLOP an image x 512 M images at 55 % of bf16 peak:
              3.7 hours. Not measured.
    Expected  not published; DMAE has 79.3 % for ViT-S (arXiv:2312.00863, table 1; not ours).

    Published and assumed: as in `regress_ti`.
    """
    return _regress("regress_s", "efficientsam_s")


def regress_b() -> RunConfig:
    """ViT-B regresses the features of SAM's ViT-H, as `regress_ti`.

    Command   esam train regress_b --workdir runs/regress_b --data.source.path IMAGENET/train \\
                  --task.teacher.weights sam_vit_h_4b8939.pth
    Hardware  64 A100. By arithmetic 359 GFLOP an image x 512 M images at 55 % of bf16 peak:
              4.7 hours. Not measured.
    Expected  not published; DMAE has 84.0 % for ViT-B (arXiv:2312.00863, table 1; not ours).

    Published and assumed: as in `regress_ti`.
    """
    return _regress("regress_b", "efficientsam_b")


def _regress(name: str, student: str) -> RunConfig:
    task = DistillConfig(student=student, coupling="features", student_features="trunk")
    return dataclasses.replace(sami_ti(), name=name, task=task)
