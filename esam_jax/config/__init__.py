"""Every configuration dataclass, its defaults and its checks.

Model configs (`SamConfig`, `MaeConfig` and what they hold) say what a network is and travel with
its weights; run configs say what to do with it. Keys end in their unit.
"""

from esam_jax.config.data import (
    CocoConfig,
    CropConfig,
    DataConfig,
    FramedConfig,
    ImageFolderConfig,
    ImageTarsConfig,
    LabelMapsConfig,
    PromptedConfig,
    Sa1bConfig,
    ScenesConfig,
    SourceConfig,
    ViewConfig,
)
from esam_jax.config.networks import (
    ComputeConfig,
    DecoderConfig,
    EncoderConfig,
    MaeConfig,
    ModelConfig,
    PretrainDecoderConfig,
    SamConfig,
    SamVitConfig,
    TinyVitConfig,
    VitConfig,
)
from esam_jax.config.run import (
    EvaluateConfig,
    GuardConfig,
    MeshConfig,
    OptimConfig,
    PeersConfig,
    ProfileConfig,
    RunConfig,
    SaveConfig,
)
from esam_jax.config.tasks import (
    DistillConfig,
    SamiConfig,
    SegmentConfig,
    TaskConfig,
    TeacherConfig,
)

__all__ = [
    "CocoConfig",
    "ComputeConfig",
    "CropConfig",
    "DataConfig",
    "DecoderConfig",
    "DistillConfig",
    "EncoderConfig",
    "EvaluateConfig",
    "FramedConfig",
    "GuardConfig",
    "ImageFolderConfig",
    "ImageTarsConfig",
    "LabelMapsConfig",
    "MaeConfig",
    "MeshConfig",
    "ModelConfig",
    "OptimConfig",
    "PeersConfig",
    "PretrainDecoderConfig",
    "ProfileConfig",
    "PromptedConfig",
    "RunConfig",
    "Sa1bConfig",
    "SamConfig",
    "SamVitConfig",
    "SamiConfig",
    "SaveConfig",
    "ScenesConfig",
    "SegmentConfig",
    "SourceConfig",
    "TaskConfig",
    "TeacherConfig",
    "TinyVitConfig",
    "ViewConfig",
    "VitConfig",
]
