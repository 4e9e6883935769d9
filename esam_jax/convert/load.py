"""Whatever a user names as a model -> a `ModelFile`: folder, run, file, preset or hub id."""

import dataclasses
import pathlib
import warnings
from pathlib import Path
from typing import Literal

from esam_jax import files
from esam_jax.config import ModelConfig
from esam_jax.config import json as config_json
from esam_jax.config.rules import Config
from esam_jax.convert import model_folder, releases, state_dict
from esam_jax.convert.families import registry
from esam_jax.convert.families.family import Family
from esam_jax.convert.formats import tensor_files
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import CheckpointError, MissingError
from esam_jax.models import named

_ASSETS = pathlib.Path(__file__).parents[1] / "assets"
SHIPPED = {"quickstart_teacher": _ASSETS / "quickstart_teacher"}
SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".zip", ".json")

_MOST_JSON_BYTES = 1_000_000  # a config has a few thousand

_ACCEPTED = (
    "a model is a model folder (config.json, model.safetensors), a run folder of `esam train`, "
    "a .pt, .pth, .zip or .safetensors file, a folder of transformers' SamModel, a hub id "
    f"(organisation/name), or a preset: {', '.join((*SHIPPED, *releases.RELEASES))}"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Location:
    """Where a model lies. `others` lie beside it in the same run."""

    kind: Literal["folder", "transformers", "file"]
    path: Path
    others: tuple[Path, ...] = ()
    licence: str | None = None
    address: str | None = None  # where it was downloaded from


def locate(source: str | Path) -> Location:
    """Finds the model without reading its weights, so that a typing error costs no time.

    A preset's name wins over a file of that name in the working directory: write ./NAME for that.
    Presets and hub ids are downloaded when they are not there yet. MissingError when nothing is
    found, CheckpointError when it is not a model.
    """
    name = str(source)
    if name in SHIPPED:
        return Location(kind="folder", path=SHIPPED[name])
    if name in releases.RELEASES:
        release = releases.RELEASES[name]
        path = releases.fetch(release)
        return Location(kind="file", path=path, licence=release.licence, address=release.address)
    path = Path(source)
    if path.is_dir():
        return _locate_in_folder(path)
    if not path.exists():
        if releases.is_hub_id(name):
            address = f"https://huggingface.co/{name}"
            found = _locate_in_folder(releases.fetch_repository(name))
            return dataclasses.replace(found, address=address)
        raise MissingError(f"no model at {name!r}: {_ACCEPTED}")
    if path.name == model_folder.WEIGHTS_FILE and model_folder.is_model_folder(path.parent):
        return Location(kind="folder", path=path.parent)
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"{name!r} is not a model: {_ACCEPTED}")
    return Location(kind="file", path=path)


def model_file(source: str | Path, *, model: str | None = None) -> ModelFile:
    """Reads the model; a UserWarning names the others when a run holds several.

    `model` names the network (models/named.py) where a file's shapes do not identify it.
    CheckpointError lists everything that does not fit; nothing is loaded in part.
    """
    found = locate(source)
    if found.others:
        rest = ", ".join(str(path) for path in found.others)
        warnings.warn(f"taking {found.path}; the run also holds {rest}", UserWarning, stacklevel=2)
    if found.kind == "folder":
        return _as_named(model_folder.read(found.path), model)
    tensors = tensor_files.read(weights(found))
    family, config = recognise(tensors.tensors, found, model)
    params, unused = state_dict.to_params(tensors.tensors, family, config)
    return ModelFile(
        config=config,
        params=params,
        source=f"{family.about}: {found.address or found.path.name}",
        licence=found.licence or family.licence,
        unused=unused,
    )


def weights(found: Location) -> Path:
    """What to read the tensors from."""
    single = found.path / model_folder.WEIGHTS_FILE
    return single if found.kind == "transformers" and single.is_file() else found.path


def recognise(
    state: state_dict.State, found: Location, model: str | None = None
) -> tuple[Family, ModelConfig]:
    """The layout of a file's names, and the network that it holds."""
    config = None
    if model is not None:
        config = named.model(model)
    elif found.kind == "transformers":
        config = registry.from_library_config(
            files.read_json(
                found.path / "config.json",
                max_bytes=_MOST_JSON_BYTES,
                error=CheckpointError,
                finite=False,
            )
        )
    if config is None:
        family = registry.recognise(state)
        return family, state_dict.detect(state, family)
    return registry.closest(state, config), config


def differences(found: Config, wanted: Config) -> str:
    """The fields in which two configs differ: "encoder.depth 12 instead of 4, ..."."""
    pairs = config_json.differences(config_json.to_json(found), config_json.to_json(wanted))
    return ", ".join(f"{path} {a} instead of {b}" for path, a, b in pairs)


def _as_named(file: ModelFile, model: str | None) -> ModelFile:
    """A model folder states what it holds, so another name is an error."""
    if model is not None and named.model(model) != file.config:
        raise CheckpointError(
            f"{file.source} is not {model}: {differences(file.config, named.model(model))}; "
            "leave the name out"
        )
    return file


def _locate_in_folder(folder: Path) -> Location:
    """A folder of ours or of transformers, or the model folders under RUN/model (or `folder`)."""
    for root in (folder, folder / "model"):
        if _is_transformers(root):
            return Location(kind="transformers", path=root)
        if model_folder.is_model_folder(root):
            return Location(kind="folder", path=root)
        children = sorted(root.iterdir()) if root.is_dir() else []
        models = [child for child in children if model_folder.is_model_folder(child)]
        if models and root.name == "model":
            return Location(kind="folder", path=models[0], others=tuple(models[1:]))
    if (folder / "checkpoints").is_dir():
        raise CheckpointError(
            f"run {str(folder)!r} has no model yet: let `esam train` finish, which writes it, or "
            f"take its last checkpoint: esam convert {folder} FOLDER"
        )
    if (folder / tensor_files.INDEX_FILE).is_file():
        return Location(kind="file", path=folder)
    raise CheckpointError(f"{str(folder)!r} is not a model: {_ACCEPTED}")


def _is_transformers(folder: Path) -> bool:
    """Whether config.json is one of transformers: ours has no model_type."""
    config = folder / "config.json"
    weights = (tensor_files.INDEX_FILE, model_folder.WEIGHTS_FILE)
    if not config.is_file() or not any((folder / name).is_file() for name in weights):
        return False
    return "model_type" in str(config.read_bytes()[:100_000])
