"""Prediction with a loaded model.

`load` finds the predictor for a model by the name of its kind (`models/kinds.py`): that is the
module here whose `from_file(file, source, compute)` makes the predictor.
"""

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from esam_jax.config import ComputeConfig
from esam_jax.convert import load as models
from esam_jax.errors import CheckpointError
from esam_jax.models import kinds

if TYPE_CHECKING:
    from esam_jax.predict.sam import Sam
else:
    Sam = Any  # imported when a model is loaded, by its name


def load(source: str | Path, *, dtype: Literal["float32", "bfloat16"] | None = None) -> Sam:
    """A model folder, a run folder, a .pt/.pth/.safetensors file or a preset, as a `Sam`.

    dtype: what the network computes in, float32 when None; parameters stay float32. No code from
    the file is run. A UserWarning names parts that every answer needs and that were never trained;
    what only some prompts need is refused when they are given. CheckpointError or MissingError
    says what is accepted.
    """
    file = models.model_file(source)
    kind = kinds.of(file.config)
    if importlib.util.find_spec(f"{__name__}.{kind.name}") is None:
        raise CheckpointError(
            f"{source} holds {kind.about}, which answers no prompts: fine-tune it with "
            "esam train segment_ti --task.init-from, or name a promptable model"
        )
    predictor: Any = importlib.import_module(f"{__name__}.{kind.name}")
    compute = ComputeConfig() if dtype is None else ComputeConfig(dtype=dtype)
    return predictor.from_file(file, source, compute)
