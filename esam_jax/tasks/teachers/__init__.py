"""What a frozen teacher may be: one module for each kind of network, and one table of them.

Such a module has `features(teacher, config, compute)`, the `PatchFeatures` of a network with this
config; ConfigError where they are no target.
"""

from collections.abc import Mapping
from typing import Any

from esam_jax.config import ClipConfig, ComputeConfig, MaeConfig, SamConfig, TeacherConfig
from esam_jax.errors import ConfigError
from esam_jax.models import named
from esam_jax.tasks.teachers import clip_tower, sam_encoder, vit_patches
from esam_jax.tasks.teachers.patch_features import PatchFeatures

_KINDS: Mapping[type, Any] = {
    SamConfig: sam_encoder,
    ClipConfig: clip_tower,
    MaeConfig: vit_patches,
}


def features(teacher: TeacherConfig, compute: ComputeConfig) -> PatchFeatures:
    """Of the network that a config names; ConfigError for one that has none."""
    config = named.model(teacher.model)
    kind = _KINDS.get(type(config))
    if kind is None:
        raise ConfigError(
            f"task.teacher.model is {teacher.model!r}, which has no features of patches: choose a "
            "sam_*, clip_* or mae_* model"
        )
    return kind.features(teacher, config, compute)
