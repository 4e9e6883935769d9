"""`esam_jax.load`: whatever a user names as a model -> a `Sam` ready to be asked."""

import warnings
from pathlib import Path
from typing import Literal

from esam_jax.config import ComputeConfig
from esam_jax.convert import source as sources
from esam_jax.models import efficient_sam
from esam_jax.predict.sam import Sam


def load(source: str | Path, *, dtype: Literal["float32", "bfloat16"] | None = None) -> Sam:
    """A model folder, a run folder, a .pt/.pth/.safetensors file or a preset, as a `Sam`.

    dtype: what the network computes in, float32 when None; parameters stay float32. No code from
    the file is run. A UserWarning names the parts that were never trained. CheckpointError or
    MissingError says what is accepted.
    """
    file = sources.load(source)
    if file.untrained:
        warnings.warn(
            f"{source} holds parts that were never trained ({', '.join(file.untrained)}): "
            "its masks mean nothing until a promptable training has filled them",
            UserWarning,
            stacklevel=2,
        )
    compute = ComputeConfig() if dtype is None else ComputeConfig(dtype=dtype)
    return Sam(efficient_sam.Sam(file.config, compute), file.params)
