"""A plain ViT as a teacher: its patches after the last norm, the class token left out.

Three kinds of file hold one: a pretrained ViT (MAE), a classifier, and what SAMI leaves. The norm
of a classifier that reads the mean of patches was trained on that mean; here it is applied to each
of them.
"""

from jaxtyping import Array, Float

from esam_jax.config import ComputeConfig, MaeConfig, TeacherConfig
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import CheckpointError
from esam_jax.models.pretrain.mae import Mae
from esam_jax.tasks import plain_vit
from esam_jax.tasks.teachers import patch_features
from esam_jax.tasks.teachers.patch_features import PatchFeatures
from esam_jax.typing import Params


def features(teacher: TeacherConfig, config: MaeConfig, compute: ComputeConfig) -> PatchFeatures:
    """ConfigError for a layer, which SAM's encoders alone have a choice of."""
    patch_features.require_no_choice(teacher)
    encoder = config.encoder

    def taken(file: ModelFile) -> Params:
        where = f"task.teacher.weights {teacher.weights}"
        plain_vit.require(file, encoder, where=where, model=teacher.model)
        found = plain_vit.held(file)
        if not {"class_token", "norm"} <= found.keys():
            raise CheckpointError(
                f"{where} holds no class token and last norm, without which {teacher.model!r} is "
                "not complete: name a pretrained ViT, a classifier or a run of SAMI"
            )
        return {name: found[name] for name in ("encoder", "class_token", "norm")}

    return PatchFeatures(
        module=Mae(MaeConfig(encoder=encoder), compute),
        method=_patches,
        encoder=encoder,
        layer="trunk",
        taken=taken,
        accepts="a pretrained ViT, a classifier or a run of SAMI",
    )


def _patches(vit: Mae, pixels_BHW3: Float[Array, "B H W 3"]) -> Float[Array, "B N D"]:
    return vit.encode(pixels_BHW3)[:, 1:]
