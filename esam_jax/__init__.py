"""EfficientSAM in JAX/Flax: SAMI pretraining, promptable fine-tuning and inference.

    import esam_jax as esam

    sam = esam.load("runs/segment_ti")
    embedding = sam.encode(picture)  # uint8 RGB [H, W, 3]
    masks = sam.decode(embedding, [esam.Prompt(points=[[320, 240]])])

Configs and errors are plain Python and come at once; what needs JAX is imported when first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from esam_jax.config import (
    ClipConfig,
    CocoConfig,
    ComputeConfig,
    CropConfig,
    DataConfig,
    DecoderConfig,
    EvaluateConfig,
    ImageFolderConfig,
    ImageTarsConfig,
    LabelMapsConfig,
    MeshConfig,
    OptimConfig,
    PretrainDecoderConfig,
    PromptedConfig,
    RunConfig,
    Sa1bConfig,
    SamConfig,
    SamiConfig,
    SamVitConfig,
    ScenesConfig,
    SegmentConfig,
    TeacherConfig,
    TextConfig,
    TfdsConfig,
    TinyVitConfig,
    VitConfig,
)
from esam_jax.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DeviceMemoryError,
    EsamError,
    MissingError,
    PromptError,
    TrainingError,
)

if TYPE_CHECKING:
    from esam_jax.predict import load, load_clip
    from esam_jax.predict.ahead_of_time import Shapes
    from esam_jax.predict.clip import Clip
    from esam_jax.predict.embedding import Embedding
    from esam_jax.predict.everything.generator import AutomaticMaskGenerator
    from esam_jax.predict.masks import Masks
    from esam_jax.predict.predictor import Predictor
    from esam_jax.predict.prompt import Prompt
    from esam_jax.predict.sam import Sam
    from esam_jax.predict.zero_shot.edges import edges
    from esam_jax.predict.zero_shot.proposals import ProposalSettings, proposals
    from esam_jax.predict.zero_shot.saliency_network import load_saliency
    from esam_jax.predict.zero_shot.salient import salient

__version__ = "0.1.0"

_HOMES = {
    "AutomaticMaskGenerator": "esam_jax.predict.everything.generator",
    "Clip": "esam_jax.predict.clip",
    "Embedding": "esam_jax.predict.embedding",
    "Masks": "esam_jax.predict.masks",
    "Predictor": "esam_jax.predict.predictor",
    "Prompt": "esam_jax.predict.prompt",
    "ProposalSettings": "esam_jax.predict.zero_shot.proposals",
    "Sam": "esam_jax.predict.sam",
    "Shapes": "esam_jax.predict.ahead_of_time",
    "edges": "esam_jax.predict.zero_shot.edges",
    "load": "esam_jax.predict",
    "load_saliency": "esam_jax.predict.zero_shot.saliency_network",
    "salient": "esam_jax.predict.zero_shot.salient",
    "proposals": "esam_jax.predict.zero_shot.proposals",
    "load_clip": "esam_jax.predict",
}

__all__ = [
    "AutomaticMaskGenerator",
    "CheckpointError",
    "Clip",
    "ClipConfig",
    "CocoConfig",
    "ComputeConfig",
    "ConfigError",
    "CropConfig",
    "DataConfig",
    "DataError",
    "DecoderConfig",
    "DeviceMemoryError",
    "Embedding",
    "EsamError",
    "EvaluateConfig",
    "ImageFolderConfig",
    "ImageTarsConfig",
    "LabelMapsConfig",
    "Masks",
    "MeshConfig",
    "MissingError",
    "OptimConfig",
    "Predictor",
    "PretrainDecoderConfig",
    "Prompt",
    "PromptError",
    "PromptedConfig",
    "ProposalSettings",
    "RunConfig",
    "Sa1bConfig",
    "Sam",
    "SamConfig",
    "SamVitConfig",
    "SamiConfig",
    "ScenesConfig",
    "SegmentConfig",
    "Shapes",
    "TeacherConfig",
    "TextConfig",
    "TfdsConfig",
    "TinyVitConfig",
    "TrainingError",
    "VitConfig",
    "edges",
    "load",
    "load_clip",
    "load_saliency",
    "proposals",
    "salient",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
