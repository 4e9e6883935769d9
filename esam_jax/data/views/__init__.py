"""Records to the arrays that a task reads: one file for each kind of view."""

from types import ModuleType

import numpy as np

from esam_jax.config import CropConfig, PromptedConfig
from esam_jax.data.records import Record
from esam_jax.data.views import crop, prompted

View = dict[str, np.ndarray]
ViewConfig = CropConfig | PromptedConfig

_KINDS: dict[str, ModuleType] = {"crop": crop, "prompted": prompted}


def make(record: Record, config: ViewConfig, rng: np.random.Generator) -> View | None:
    """One example without its batch axis; None when the record has nothing that the view shows."""
    return _KINDS[config.kind].view(record, config, rng)


def shapes(config: ViewConfig) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of every array of a view, without its batch axis."""
    return _KINDS[config.kind].shapes(config)
