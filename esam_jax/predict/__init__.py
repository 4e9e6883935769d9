"""Prediction with a loaded model.

`load` and `load_clip` find the predictor for a model by the name of its kind (`models/kinds.py`):
that is the module here whose `from_file(file, source, compute)` makes the predictor.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esam_jax.config import ComputeConfig
from esam_jax.convert import load as models
from esam_jax.convert.formats.choices import Weights
from esam_jax.errors import CheckpointError, ConfigError
from esam_jax.models import kinds

if TYPE_CHECKING:
    from esam_jax.predict.clip import Clip
    from esam_jax.predict.sam import Sam
else:
    Clip = Sam = Any  # imported when a model is loaded, by its name


# What the network computes in, under the names that people give it.
_DTYPES = {"float32": "float32", "fp32": "float32", "float": "float32",
           "bfloat16": "bfloat16", "bf16": "bfloat16"}  # fmt: skip
# The names that OpenAI's own `clip.load` takes, which would be taken for ids of the hub.
_OPENAI = {"ViT-B/32": "clip_b_32", "ViT-B/16": "clip_b_16",
           "ViT-L/14": "clip_l_14", "ViT-L/14@336px": "clip_l_14_336"}  # fmt: skip


def load(source: str | Path, *, dtype: Any = None, weights: Weights | None = None) -> Sam:
    """A model folder, a run folder, a .pt/.pth/.safetensors file or a preset, as a `Sam`.

    dtype: what the network computes in, "float32" (when None) or "bfloat16", or a dtype of NumPy,
    JAX or PyTorch of that name; parameters stay float32. weights: "ema" or "raw" where a file holds
    both; averaged (EMA) weights are taken otherwise. No code from the file is run. A UserWarning
    names parts that every answer needs and that were never trained, and says what was chosen, cast
    or left out; what only some prompts need is refused when they are given. ConfigError for another
    dtype; CheckpointError or MissingError says what is accepted.
    """
    return _loaded(source, "load", "prompts", dtype, weights)


def load_clip(source: str | Path, *, dtype: Any = None, weights: Weights | None = None) -> Clip:
    """A CLIP model, of pictures and texts, as a `Clip`.

    source: as for `load`, or a name of OpenAI's ("ViT-B/32"): a file of OpenAI's or open_clip's, a
    folder or hub id of transformers' CLIPModel, a model folder or a preset ("clip_b_32"), which is
    downloaded on first use. dtype, weights and errors as for `load`. open_clip's weights for the
    exact GELU, of names without "-quickgelu", give other features here: no file says which it has.
    """
    source = _OPENAI.get(str(source), source)
    return _loaded(source, "load_clip", "texts", dtype, weights)


def _loaded(
    source: str | Path, loader: str, asked: str, dtype: Any, weights: Weights | None
) -> Any:
    """The model, if it is of a kind that the function of that name loads; or CheckpointError."""
    compute = ComputeConfig() if dtype is None else ComputeConfig(dtype=_dtype(dtype))
    file = models.model_file(source, weights=weights)
    kind = kinds.of(file.config)
    if kind.loader != loader:
        holds = f"{source} holds {kind.about}, which answers no {asked}"
        if kind.loader is not None:
            raise CheckpointError(f"{holds}: load it with esam_jax.{kind.loader}")
        if loader == "load_clip":
            raise CheckpointError(f"{holds}: name a CLIP model, such as clip_b_32")
        raise CheckpointError(
            f"{holds}: fine-tune it with esam train segment_ti --task.init-from, or name a "
            "promptable model"
        )
    predictor: Any = importlib.import_module(f"{__name__}.{kind.name}")
    return predictor.from_file(file, source, compute)


def _dtype(given: Any) -> Any:
    """One of those of `ComputeConfig`; ConfigError for another."""
    name = given if isinstance(given, str) else getattr(given, "__name__", str(given))
    name = name.removeprefix("torch.")
    if name not in _DTYPES:
        raise ConfigError(
            f"dtype is {given!r:.80}, but a model computes in float32 (fp32) or bfloat16 (bf16): "
            "choose one of them"
        )
    return _DTYPES[name]
