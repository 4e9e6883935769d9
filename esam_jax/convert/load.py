"""Whatever a user names as a model -> a `ModelFile`: folder, run, file, preset or hub id."""

import dataclasses
import importlib
import pathlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from esam_jax import files
from esam_jax.config import ModelConfig
from esam_jax.config import json as config_json
from esam_jax.config.rules import Config
from esam_jax.convert import model_folder, prefixes, provenance, releases, state_dict
from esam_jax.convert.families import registry
from esam_jax.convert.families.family import Family
from esam_jax.convert.formats import choices, tensor_files
from esam_jax.convert.formats.choices import Weights
from esam_jax.convert.formats.tensor_files import Tensors
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import CheckpointError, ConfigError, MissingError
from esam_jax.models import named

_ASSETS = pathlib.Path(__file__).parents[1] / "assets"
SHIPPED = {name: _ASSETS / name for name in ("quickstart_teacher", "quickstart_clicks")}
_CHECKPOINTS = "checkpoints"  # of a run
SUFFIXES = (*tensor_files.TORCH_SUFFIXES, ".safetensors", ".zip", ".json")

_ACCEPTED = (
    "a model is a model folder (config.json, model.safetensors), a run folder of `esam train` or "
    "RUN@STEP, a .pt, .pth, .ckpt, .zip or .safetensors file, a folder of transformers' SamModel "
    "or CLIPModel or of a ViT of timm's, a hub id (organisation/name), or a preset: "
    f"{', '.join((*SHIPPED, *releases.RELEASES))}"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Location:
    """Where a model lies. `others` lie beside it in the same run.

    `config` is the object in a library's config.json, which is read once. A "checkpoint" is one
    `step` of the run at `path`.
    """

    kind: Literal["folder", "transformers", "timm", "file", "checkpoint"]
    path: Path
    step: int = 0
    others: tuple[Path, ...] = ()
    licence: str | None = None
    address: str | None = None  # where it was downloaded from
    config: Mapping[str, Any] | None = None


def locate(source: str | Path) -> Location:
    """Finds the model without reading its weights, so that a typing error costs no time.

    A preset's name wins over a file of that name in the working directory: write ./NAME for that.
    Presets and hub ids are downloaded when they are not there yet. MissingError when nothing is
    found, CheckpointError when it is not a model.
    """
    name = str(source)
    files.require_local(name)
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
        run, at, step = name.rpartition("@")
        if at and Path(run).is_dir():
            return _locate_step(Path(run), step)
        if releases.is_hub_id(name):
            address = f"https://huggingface.co/{name}"
            found = _locate_in_folder(releases.fetch_repository(name))
            return dataclasses.replace(found, address=address)
        raise MissingError(f"no model at {name!r}: {_ACCEPTED}")
    if path.name in (model_folder.WEIGHTS_FILE, tensor_files.TORCH_FILE):
        whole = _with_config(path.parent)  # which says more than the file alone
        if whole is not None and (whole.kind == "folder" or weights(whole) == path):
            return whole
    if path.suffix.lower() not in SUFFIXES:
        raise CheckpointError(f"{name!r} is not a model: {_ACCEPTED}")
    return Location(kind="file", path=path)


def thresholds(found: Location) -> Mapping[str, float]:
    """The model's own thresholds for segment-everything, where its folder has some."""
    if found.kind != "folder":
        return {}
    config = model_folder.json_of(found.path) if found.config is None else found.config
    return model_folder.thresholds(config, str(found.path / model_folder.CONFIG_FILE))


@files.refusing()
def model_file(
    source: str | Path | Location, *, model: str | None = None, weights: Weights | None = None
) -> ModelFile:
    """Reads the model; a UserWarning says what was chosen, cast or left out, and names the others
    when a run holds several.

    `model` names the network (models/named.py) where a file's shapes do not identify it, `weights`
    the averaged or the raw ones where a file holds both (default: averaged). CheckpointError lists
    everything that does not fit; nothing is loaded in part.
    """
    found = source if isinstance(source, Location) else locate(source)
    if found.others:  # of the warnings below, the second frame is that of `refusing`
        rest = ", ".join(str(path) for path in found.others)
        warnings.warn(f"taking {found.path}; the run also holds {rest}", UserWarning, stacklevel=3)
    if found.kind == "checkpoint":
        # What restores one builds its task, and so stands above this part of the package.
        module = importlib.import_module("esam_jax.train.checkpoint.model_of_step")
        return module.read(found.path, found.step, name=model, weights=weights)
    if found.kind == "folder":
        file = model_folder.read(found.path, found.config)
        if weights not in (None, "ema" if file.source.endswith(provenance.AVERAGED) else "raw"):
            raise CheckpointError(
                f"{found.path} holds one set of weights: leave out --weights, or name a checkpoint "
                "of its run, as RUN@STEP"
            )
        return _as_named(file, model)
    read, state, notes = tensors(found, weights)
    family, config = recognise(state, found, model)
    notes += state_dict.remarks(state, family, config)
    params, unused = state_dict.to_params(state, family, config)
    for note in notes:
        warnings.warn(f"{found.path}: {note}", UserWarning, stacklevel=3)
    return ModelFile(
        config=config,
        params=params,
        source=f"{family.about}: {found.address or found.path.name}",
        licence=found.licence or read.metadata.get(provenance.LICENCE, family.licence),
        untrained=provenance.untrained(read.metadata, params, f"{found.path}"),
        unused=unused,
        notes=notes,
    )


def tensors(
    found: Location, choice: Weights | None = None
) -> tuple[Tensors, state_dict.State, tuple[str, ...]]:
    """A file as it is, its tensors in the names of the network, and what was done to have them.

    `choice` as `weights` of `model_file`.
    """
    read = tensor_files.read(weights(found), choice)
    state, prefix, notes = prefixes.without(read.tensors, choice)
    choices.require(choice, (read.wrapped, prefix), f"{found.path}")
    if read.passed_over is not None:
        notes = (prefixes.told(read.wrapped or "", read.passed_over), *notes)
    if read.ignored:
        notes += (f"left out, beside the weights: {', '.join(read.ignored)}",)
    return read, state, notes


def weights(found: Location) -> Path:
    """What to read the tensors from."""
    names = (model_folder.WEIGHTS_FILE, tensor_files.INDEX_FILE, tensor_files.TORCH_FILE)
    single = [found.path / name for name in names if (found.path / name).is_file()]
    of_library = found.kind in ("transformers", "timm")
    if not of_library or not single or single[0].name == tensor_files.INDEX_FILE:
        return found.path
    return single[0]


def inputs(found: Location) -> tuple[Path, ...]:
    """Every file and folder that reading takes, so that none of them is written to."""
    if found.kind == "checkpoint":  # other files of the run may be replaced
        return found.path / _CHECKPOINTS, found.path / model_folder.CONFIG_FILE
    if found.kind == "file" and found.path.name.endswith(".index.json"):
        return found.path, *tensor_files.shard_files(found.path)
    return (found.path,)


def recognise(
    state: state_dict.State, found: Location, model: str | None = None
) -> tuple[Family, ModelConfig]:
    """The layout of a file's names, and the network that it holds."""
    config = None
    if model is not None:
        config = named.model(model)
    elif found.kind == "transformers":
        config = registry.from_library_config(found.config)
    if config is not None:
        return registry.closest(state, config), config
    family = registry.recognise(state)
    config = state_dict.detect(state, family)
    if found.kind == "timm":
        config = family.described(config, found.config)
    return family, config


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
        if (found := _with_config(root)) is not None:
            return found
        children = sorted(root.iterdir()) if root.is_dir() else []
        models = [child for child in children if model_folder.is_model_folder(child)]
        if models and root.name == "model":
            return Location(kind="folder", path=models[0], others=tuple(models[1:]))
    if (folder / _CHECKPOINTS).is_dir():
        return _locate_step(folder)
    if any((folder / name).is_file() for name in tensor_files.INDEX_FILES):
        return Location(kind="file", path=folder)
    raise CheckpointError(f"{str(folder)!r} is not a model: {_ACCEPTED}")


def _locate_step(run: Path, step: str | None = None) -> Location:
    """One checkpoint of a run (None: the last), whose weights are not looked at yet."""
    if step is not None and not step.isdecimal():
        raise ConfigError(f"'{run}@{step}' names step {step!r}, but a step is an integer")
    folder = run / _CHECKPOINTS
    names = [each.name for each in folder.iterdir()] if folder.is_dir() else []
    there = sorted(int(name) for name in names if name.isdecimal())
    if step is None and there:
        return Location(kind="checkpoint", path=run, step=there[-1])
    if step is None or int(step) not in there:
        listed = ", ".join(map(str, there)) or "none yet"
        what = "model" if step is None else f"checkpoint {step}"
        raise CheckpointError(f"run {run} has no {what}; checkpoints that it keeps: {listed}")
    return Location(kind="checkpoint", path=run, step=int(step))


def _with_config(folder: Path) -> Location | None:
    """A folder with weights and a config.json of transformers, of timm, or ours, which has neither
    of their keys."""
    names = (model_folder.WEIGHTS_FILE, tensor_files.TORCH_FILE, *tensor_files.INDEX_FILES)
    there = [name for name in names if (folder / name).is_file()]
    if not there or not (folder / model_folder.CONFIG_FILE).is_file():
        return None
    config = model_folder.json_of(folder)
    if "model_type" in config:
        return Location(kind="transformers", path=folder, config=config)
    if "pretrained_cfg" in config:
        return Location(kind="timm", path=folder, config=config)
    if model_folder.WEIGHTS_FILE in there:
        return Location(kind="folder", path=folder, config=config)
    return None
