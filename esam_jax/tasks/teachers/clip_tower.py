"""CLIP's image encoder as a teacher: its patches after the last norm, before the projection.

EfficientSAM has CLIP as another target (arXiv:2312.00863, section 4.4) and names no layer. The norm
brings all channels to one scale, as the one that ends SAM's neck does: before it a few of them are
so much larger that a squared error would be theirs. The projection behind it is linear, as is the
head of a student, so it has nothing to add.
"""

from esam_jax.config import ClipConfig, ComputeConfig, TeacherConfig
from esam_jax.convert import load
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import CheckpointError
from esam_jax.models.clip.towers import ImageTower
from esam_jax.ops import images
from esam_jax.tasks.teachers import patch_features
from esam_jax.tasks.teachers.patch_features import PatchFeatures
from esam_jax.typing import Params


def features(teacher: TeacherConfig, config: ClipConfig, compute: ComputeConfig) -> PatchFeatures:
    """ConfigError for a layer, which SAM's encoders alone have a choice of."""
    patch_features.require_no_choice(teacher)

    def taken(file: ModelFile) -> Params:
        found = getattr(file.config, "encoder", file.config)
        if not isinstance(file.config, ClipConfig) or found != config.encoder:
            raise CheckpointError(
                f"{teacher.weights} holds another image encoder than task.teacher.model "
                f"{teacher.model!r}: {load.differences(file.config, config)}; name the model that "
                "the file holds"
            )
        return {name: x for name, x in file.params["encoder"].items() if name != "project"}

    return PatchFeatures(
        module=ImageTower(config.encoder, config.embed_width, compute),
        method=ImageTower.tokens,
        encoder=config.encoder,
        layer="trunk",
        taken=taken,
        accepts="OpenAI's or transformers' weights of CLIP, or a model folder",
        pixels=(images.CLIP_MEAN, images.CLIP_STD),
    )
