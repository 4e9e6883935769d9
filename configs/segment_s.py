"""EfficientSAM-S: the runs of `segment_ti.py` with the other model."""

import dataclasses

from esam_jax.config import RunConfig

from . import segment_ti as ti


def segment_s() -> RunConfig:
    """EfficientSAM-S: as `segment_ti`, with the other model.

    Command   esam train segment_s --workdir runs/segment_s --data.source.path SA1B \\
                  --task.init-from runs/sami_s
    Hardware  64 A100-40GB, two pictures each. By arithmetic 4.8 TFLOP a picture x 55 M pictures at
              40 % of bf16 peak: 9.2 hours. Not measured.
    Expected  COCO mIoU 76.9 from a box, 50.0 from one click (published, arXiv:2312.00863, table 4;
              not ours).
    """
    return _with("efficientsam_s", ti.segment_ti(), "segment_s")


def segment_s_extended() -> RunConfig:
    """EfficientSAM-S with background points and mask prompts, as `segment_ti_extended`.

    Command   esam train segment_s_extended --workdir runs/extended --data.source.path SA1B \\
                  --task.init-from runs/sami_s
    Hardware  64 A100-40GB, two pictures each. By arithmetic 9.2 TFLOP a picture x 55 M pictures at
              40 % of bf16 peak: 18 hours. Not measured.
    Expected  better clicks than `segment_s`, which nobody has published numbers of.
    """
    return _with("efficientsam_s_extended", ti.segment_ti_extended(), "segment_s_extended")


def _with(model: str, run: RunConfig, name: str) -> RunConfig:
    return dataclasses.replace(run, name=name, task=dataclasses.replace(run.task, model=model))
