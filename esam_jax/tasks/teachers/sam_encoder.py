"""SAM's image encoder as a teacher: its embedding, or its trunk before the neck."""

from esam_jax.config import ComputeConfig, SamConfig, SamVitConfig, TeacherConfig
from esam_jax.convert import load
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import CheckpointError, ConfigError
from esam_jax.models import flops
from esam_jax.models.encoders.sam_vit import SamVitEncoder
from esam_jax.tasks.teachers.patch_features import PatchFeatures
from esam_jax.typing import Params


def features(teacher: TeacherConfig, config: SamConfig, compute: ComputeConfig) -> PatchFeatures:
    """ConfigError for a promptable model with another encoder."""
    encoder = config.encoder
    if not isinstance(encoder, SamVitConfig):
        raise ConfigError(
            f"task.teacher.model is {teacher.model!r}, whose image encoder is no SAM's: choose a "
            "sam_*, clip_* or mae_* model (mae_* for a plain ViT, a classifier's too)"
        )

    def taken(file: ModelFile) -> Params:
        found = getattr(file.config, "encoder", file.config)
        if found != encoder:
            raise CheckpointError(
                f"{teacher.weights} holds another image encoder than task.teacher.model "
                f"{teacher.model!r}: {load.differences(found, encoder)}; name the model that the "
                "file holds"
            )
        if teacher.features == "neck" and "encoder/neck" in file.untrained:
            raise CheckpointError(
                f"{teacher.weights} holds an encoder whose neck was never trained, so its features "
                "are random: write --task.teacher.features trunk, or name other weights"
            )
        return file.params["encoder"]

    def operations(side: int) -> int:
        # By formula: its jaxpr also holds products with the one-hot channels of its positions.
        trunk, cells = flops.sam_vit_trunk(encoder, side), (side // encoder.patch_px) ** 2
        neck = flops.neck(encoder, cells, encoder.width)
        return trunk + neck if teacher.features == "neck" else trunk

    return PatchFeatures(
        module=SamVitEncoder(encoder, compute),
        method=SamVitEncoder.trunk if teacher.features == "trunk" else None,
        encoder=encoder,
        layer=teacher.features,
        taken=taken,
        accepts="a SAM checkpoint or model folder",
        operations=operations,
    )
