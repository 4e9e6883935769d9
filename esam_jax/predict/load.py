"""`esam_jax.load`: whatever a user names as a model -> a `Sam` ready to be asked."""

import warnings
from pathlib import Path
from typing import Literal

import jax

from esam_jax.config import ComputeConfig, SamConfig
from esam_jax.convert import load as models
from esam_jax.errors import CheckpointError
from esam_jax.models.sam import network
from esam_jax.predict.sam import Sam

_NEEDED_ALWAYS = ("encoder", "encoder/neck", "prompt", "decoder")


def load(source: str | Path, *, dtype: Literal["float32", "bfloat16"] | None = None) -> Sam:
    """A model folder, a run folder, a .pt/.pth/.safetensors file or a preset, as a `Sam`.

    dtype: what the network computes in, float32 when None; parameters stay float32. No code from
    the file is run. A UserWarning names parts that every answer needs and that were never trained;
    what only some prompts need is refused when it is asked for. CheckpointError or MissingError
    says what is accepted.
    """
    file = models.model_file(source)
    if not isinstance(file.config, SamConfig):
        raise CheckpointError(
            f"{source} holds a pretrained encoder, which answers no prompts: fine-tune it with "
            "esam train segment_ti --task.init-from, or name a promptable model"
        )
    hollow = [part for part in file.untrained if part in _NEEDED_ALWAYS]
    if hollow:
        warnings.warn(
            f"{source} holds parts that were never trained ({', '.join(hollow)}): "
            "its masks mean nothing until a promptable training has filled them",
            UserWarning,
            stacklevel=2,
        )
    compute = ComputeConfig() if dtype is None else ComputeConfig(dtype=dtype)
    # Arrays of a file are views of it: the model must not change when somebody writes there.
    params = jax.device_put(file.params, may_alias=False)
    return Sam(network.Sam(file.config, compute), params, file.untrained)
