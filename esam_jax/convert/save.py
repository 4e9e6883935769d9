"""Writes a model: in the layout of its release, of transformers, of timm, or as a model folder."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np

from esam_jax import files, outputs
from esam_jax.convert import model_folder, provenance, state_dict
from esam_jax.convert.describe import flat
from esam_jax.convert.families import registry
from esam_jax.convert.families.family import Family, Library
from esam_jax.convert.families.family import Layout as FamilyLayout
from esam_jax.convert.formats import tensor_files
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import CheckpointError, ConfigError, EsamError

Layout = Literal["folder"] | FamilyLayout
Dtype = Literal["float32", "bfloat16", "float16"]

FILES = (*tensor_files.TORCH_SUFFIXES, ".safetensors")
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


def require_target(
    target: Path, *, layout: Layout | None, overwrite: bool, inputs: Iterable[Path] = ()
) -> Layout:
    """The layout of a target, by its ending unless one is given; an error where none may be put.

    ConfigError for an ending that means nothing here, for an input, and for a folder around one;
    ExistsError for what exists, unless it is a model and `overwrite` is set.
    """
    if _is_file(target):
        if layout == "folder":
            raise ConfigError(f"{target} is a file, but layout 'folder' makes a folder: name one")
        outputs.require_file(target, overwrite=overwrite, inputs=inputs)
        return "original" if layout is None else layout
    if layout in ("original", "timm"):
        raise ConfigError(
            f"{target} must end in {', '.join(FILES)}: name such a file, or give --layout folder"
        )
    if layout is None and outputs.has_ending(target) and not target.is_dir():
        raise ConfigError(
            f"{str(target)!r} ends in {target.suffix!r}, which is not written: end it in "
            f"{', '.join(FILES)}, or add --layout folder for a model folder of that name"
        )
    outputs.require_new_folder(target, overwrite=overwrite, is_own=_is_own, inputs=inputs)
    return "folder" if layout is None else layout


def _is_file(target: Path) -> bool:
    return target.suffix.lower() in FILES


def _is_own(folder: Path) -> bool:
    """Whether a folder holds nothing but one model, of ours or of a library."""
    return model_folder.is_own(folder) or any(
        family.library is not None and _is_of_library(folder, family.library)
        for family in registry.FAMILIES.values()
    )


def _is_of_library(folder: Path, library: Library) -> bool:
    names = {model_folder.WEIGHTS_FILE, *library.names}
    if not {each.name for each in folder.iterdir()} <= names:
        return False
    try:
        return model_folder.json_of(folder).get("model_type") == library.model_type
    except EsamError:
        return False


def write(
    file: ModelFile,
    target: str | Path,
    *,
    layout: Layout | None = None,
    dtype: Dtype = "float32",
    drop_extras: bool = False,
    overwrite: bool = False,
) -> Written:
    """Puts the model in place atomically, as a single file or a folder.

    layout: `folder` is a model folder of this package; `original` the state dict that its authors'
    code loads with strict=True; `transformers` the names and config.json of SamModel or CLIPModel;
    `timm` the image encoder alone. CheckpointError when the layout cannot express the model:
    `drop_extras` leaves out what it lacks (the answer names it). Other errors as for
    `require_target`; MissingError when the target cannot be written.
    """
    target = Path(target)
    layout = require_target(target, layout=layout, overwrite=overwrite)
    if layout == "folder":
        tensors = {path: _cast(path, x, dtype) for path, x in flat(file.params).items()}
        model_folder.write(
            target,
            file.config,
            state_dict.nested(tensors),
            source=file.source,
            licence=file.licence,
            untrained=file.untrained,
            thresholds=file.thresholds,
            unused=file.unused,
            overwrite=overwrite,
        )
        return Written(path=target, layout=layout)
    family = registry.of_layout(file.config, layout)
    config = family.nearest(file.config)
    params, dropped = family.reduce(file.config, file.params, file.unused)
    if dropped and not drop_extras:
        raise CheckpointError(
            f"the layout {family.name} cannot hold all of this model: {', '.join(dropped)} would "
            "be lost; --drop-extras leaves them out, a model folder keeps them"
        )
    state = state_dict.to_state_dict(params, family, config, file.unused)
    state = {name: _cast(name, x, dtype) for name, x in state.items()}
    note = provenance.note(file.untrained, params, file.licence, family.licence)
    if _is_file(target):
        _write_file(target, state, family, file.source, note)
    elif family.library is not None:
        _write_library(target, state, family.library.files(config, dtype), note)
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


def _write_file(
    target: Path, state: dict[str, np.ndarray], family: Family, source: str, note: dict[str, str]
) -> None:
    if target.suffix.lower() == ".safetensors":
        metadata = {"format": "pt", "source": source, **note}
        tensor_files.write_safetensors(target, state, metadata)
    else:
        tensor_files.write_torch(target, state, wrap=family.wrap, metadata=note)


def _write_library(
    folder: Path,
    state: dict[str, np.ndarray],
    contents: Mapping[str, Any],
    note: dict[str, str],
) -> None:
    """The folder that the library loads."""
    with files.replacing_folder(folder, remedy="name another folder") as fresh:
        for name, content in contents.items():
            files.write(fresh / name, json.dumps(content, indent=2) + "\n")
        tensor_files.write_safetensors(
            fresh / model_folder.WEIGHTS_FILE, state, {"format": "pt", **note}
        )
