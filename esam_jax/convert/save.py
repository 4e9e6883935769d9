"""Writes a model: in the layout of its release, of transformers, of timm, or as a model folder."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np

from esam_jax import files
from esam_jax.convert import model_folder, state_dict
from esam_jax.convert.describe import flat
from esam_jax.convert.families import registry
from esam_jax.convert.families.family import Family
from esam_jax.convert.families.family import Layout as FamilyLayout
from esam_jax.convert.formats import tensor_files
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import CheckpointError, MissingError

Layout = Literal["folder"] | FamilyLayout
Dtype = Literal["float32", "bfloat16", "float16"]

FILES = (".pt", ".pth", ".safetensors")
_DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """Where a model was written, how, and what the layout could not hold.

    `same_model` is False where the layout holds another kind of model, such as its backbone.
    """

    path: Path
    layout: str
    same_model: bool = True
    dropped: tuple[str, ...] = ()


def layout_of(target: Path) -> Layout:
    """The layout that a target has unless another is given: by its ending."""
    return "original" if target.suffix in FILES else "folder"


def write(
    file: ModelFile,
    target: str | Path,
    *,
    layout: Layout | None = None,
    dtype: Dtype = "float32",
    drop_extras: bool = False,
) -> Written:
    """Puts the model in place atomically, as a single file or a folder.

    layout: `folder` is a model folder of this package; `original` the state dict that its authors'
    code loads with strict=True; `transformers` the names and config.json of SamModel; `timm` the
    image encoder alone. CheckpointError when the layout cannot express the model: `drop_extras`
    leaves out what it lacks (the answer names it). MissingError when the target cannot be written.
    """
    target = Path(target)
    layout = layout_of(target) if layout is None else layout
    single = target.suffix in FILES
    if layout == "folder":
        if single:
            raise CheckpointError(
                f"{target} is a file, but layout 'folder' makes a folder: name one"
            )
        tensors = {path: _cast(path, x, dtype) for path, x in flat(file.params).items()}
        model_folder.write(
            target,
            file.config,
            state_dict.nested(tensors),
            source=file.source,
            licence=file.licence,
            untrained=file.untrained,
            unused=file.unused,
        )
        return Written(path=target, layout=layout)
    family = registry.of_layout(file.config, layout)
    if not single and family.library is None:
        raise CheckpointError(
            f"{target} is no {', '.join(FILES)}: name a file, or take --layout folder"
        )
    config = family.nearest(file.config)
    params, dropped = family.reduce(file.config, file.params, file.unused)
    if dropped and not drop_extras:
        raise CheckpointError(
            f"the layout {family.name} cannot hold all of this model: {', '.join(dropped)} would "
            "be lost; --drop-extras leaves them out, a model folder keeps them"
        )
    state = state_dict.to_state_dict(params, family, config, file.unused)
    state = {name: _cast(name, x, dtype) for name, x in state.items()}
    if single:
        _write_file(target, state, family, file.source)
    elif family.library is not None:
        _write_library(target, state, family.library.files(config, dtype))
    same = type(config) is type(file.config)
    return Written(path=target, layout=family.name, same_model=same, dropped=dropped)


def _cast(name: str, array: np.ndarray, dtype: Dtype) -> np.ndarray:
    """The array in the requested dtype, unless it counts something."""
    if array.dtype.kind == "i":
        return array
    with np.errstate(over="ignore"):
        cast = np.asarray(array).astype(_DTYPES[dtype], copy=False)
    if dtype == "float16" and not np.isfinite(cast).all():
        raise CheckpointError(
            f"{name} reaches {np.abs(array).max():.3g}, which float16 cannot hold (65504 at most): "
            "take bfloat16"
        )
    return cast


def _write_file(target: Path, state: dict[str, np.ndarray], family: Family, source: str) -> None:
    if target.suffix == ".safetensors":
        tensor_files.write_safetensors(target, state, {"format": "pt", "source": source})
    else:
        tensor_files.write_torch(target, state, wrap=family.wrap)


def _write_library(folder: Path, state: dict[str, np.ndarray], contents: Mapping[str, Any]) -> None:
    """The folder that the library loads; the weights come last."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            files.write(folder / name, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise MissingError(f"{folder} cannot be written ({error}); name another") from error
    tensor_files.write_safetensors(folder / model_folder.WEIGHTS_FILE, state, {"format": "pt"})
