"""A plain ViT as a teacher: its patches after the last norm, the class token left out.

Three kinds of file hold one: a pretrained ViT (MAE), a classifier, and what SAMI leaves. The norm
of a classifier that reads the mean of patches was trained on that mean; here it is applied to each
of them.
"""

from jaxtyping import Array, Float

from esam_jax.config import (
    ClassifierConfig,
    ComputeConfig,
    MaeConfig,
    SamConfig,
    TeacherConfig,
    VitConfig,
)
from esam_jax.convert import load
from esam_jax.convert.families import timm_vit
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import CheckpointError
from esam_jax.models.pretrain.mae import Mae
from esam_jax.tasks.teachers import patch_features
from esam_jax.tasks.teachers.patch_features import PatchFeatures
from esam_jax.typing import Params

_HOLDING = MaeConfig | ClassifierConfig | SamConfig


def features(teacher: TeacherConfig, config: MaeConfig, compute: ComputeConfig) -> PatchFeatures:
    """ConfigError for a layer, which SAM's encoders alone have a choice of."""
    patch_features.require_no_choice(teacher)
    encoder = config.encoder

    def taken(file: ModelFile) -> Params:
        found = file.config.encoder if isinstance(file.config, _HOLDING) else file.config
        known = timm_vit.pretrained(found) if isinstance(found, VitConfig) else found
        if known != encoder:
            raise CheckpointError(
                f"{teacher.weights} holds another image encoder than task.teacher.model "
                f"{teacher.model!r}: {load.differences(known, encoder)}; name the model that the "
                "file holds"
            )
        # A SAMI run keeps class token and norm beside its promptable model.
        beside = {**timm_vit.beside(file.unused), **file.params}
        if not {"class_token", "norm"} <= beside.keys():
            raise CheckpointError(
                f"{teacher.weights} holds no class token and last norm, without which "
                f"{teacher.model!r} is not complete: name a pretrained ViT, a classifier or a run "
                "of SAMI"
            )
        trunk = {name: x for name, x in file.params["encoder"].items() if name != "neck"}
        return {"encoder": trunk, "class_token": beside["class_token"], "norm": beside["norm"]}

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
