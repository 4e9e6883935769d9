"""What the chaos runner trains: SAMI on drawn scenes, real but small enough to restart in seconds.

`esam train` executes this file in each training process, which is how the hooks get in there. No
test imports it: what it adds to the process would stay there.
"""

import dataclasses

from chaos import hooks

from esam_jax.config import (
    CropConfig,
    DataConfig,
    DecoderConfig,
    OptimConfig,
    PretrainDecoderConfig,
    RunConfig,
    SamConfig,
    SamiConfig,
    SamVitConfig,
    SaveConfig,
    ScenesConfig,
    TeacherConfig,
    VitConfig,
)
from esam_jax.models import named

_PX = 32
_ENCODER = {"width": 16, "heads": 2, "depth": 1, "patch_px": 8, "image_px": _PX, "neck_width": 16}
_DECODER = DecoderConfig(
    wiring="efficientsam", width=16, heads=2, mlp_width=16, iou_width=16, depth=1
)
_STUDENT = SamConfig(encoder=VitConfig(**_ENCODER, pretrain_px=_PX), decoder=_DECODER)
_TEACHER = SamConfig(
    encoder=SamVitConfig(**_ENCODER, global_blocks=(0,), window=2),
    decoder=dataclasses.replace(
        _DECODER, wiring="sam", background="learned", mask_prompts="learned"
    ),
)

# A restart mostly traces and compiles: the shipped nano models would take three times as long.
named._BUILDERS["efficientsam_chaos"] = lambda: _STUDENT
named._BUILDERS["sam_chaos"] = lambda: _TEACHER
hooks.install()


def chaos() -> RunConfig:
    """Updates of twelve pictures; steps, mesh and saving come from the command line."""
    return RunConfig(
        name="chaos",
        task=SamiConfig(
            students=("efficientsam_chaos",),
            teacher=TeacherConfig(model="sam_chaos", weights="random"),
            decoder=PretrainDecoderConfig(width=16, depth=1, heads=2),
        ),
        data=DataConfig(
            source=ScenesConfig(scenes=100, scene_px=_PX),
            view=CropConfig(image_px=_PX),
            threads=1,
        ),
        optim=OptimConfig(peak_lr=1e-3, warmup_steps=5),
        steps=100,
        batch=12,  # divides by two, three and four processes
        log_every_steps=1,
        save=SaveConfig(every_steps=4, damaged="fallback", full_disk="continue"),
    )
