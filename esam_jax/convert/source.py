"""Whatever a user names as a model -> a `ModelFile`: folder, run, single file or preset."""

import dataclasses
import pathlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from esam_jax.convert import model_folder, torch_io
from esam_jax.convert.model_folder import ModelFile
from esam_jax.errors import CheckpointError, MissingError

_ASSETS = pathlib.Path(__file__).parents[1] / "assets"
PRESETS = {"quickstart_teacher": _ASSETS / "quickstart_teacher"}
SUFFIXES = (".pt", ".pth", ".safetensors")

_ACCEPTED = (
    "a model is a model folder (config.json, model.safetensors), a run folder of `esam train`, "
    f"a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file, or the preset {', '.join(PRESETS)}"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Location:
    """Where a model lies: a model folder or a single file. `others` lie beside it in the run."""

    kind: Literal["folder", "file"]
    path: Path
    others: tuple[Path, ...] = ()


def locate(source: str | Path) -> Location:
    """Finds the model without reading its weights, so that a typing error costs no time.

    A preset's name wins over a file of that name in the working directory: write ./NAME for that.
    MissingError when nothing is there, CheckpointError when it is no model.
    """
    preset = PRESETS.get(str(source))
    path = Path(source) if preset is None else preset
    if path.is_dir():
        return _locate_in_folder(path)
    if not path.exists():
        raise MissingError(f"no model at {str(source)!r}: {_ACCEPTED}")
    if path.name == model_folder.WEIGHTS_FILE and model_folder.is_model_folder(path.parent):
        return Location(kind="folder", path=path.parent)
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"{str(source)!r} is no model: {_ACCEPTED}")
    return Location(kind="file", path=path)


def load(source: str | Path) -> ModelFile:
    """Reads the model; a UserWarning names the others when a run holds several."""
    found = locate(source)
    if found.others:
        rest = ", ".join(str(path) for path in found.others)
        warnings.warn(f"taking {found.path}; the run also holds {rest}", UserWarning, stacklevel=2)
    if found.kind == "folder":
        return model_folder.read(found.path)
    config, params = torch_io.read(found.path)
    return ModelFile(config=config, params=params, source=found.path.name)


def differences(found: Any, wanted: Any) -> str:
    """The fields in which two configs differ: "encoder.depth 12 instead of 4, ..."."""
    return ", ".join(_differences(found, wanted, ""))


def _differences(found: Any, wanted: Any, prefix: str) -> Iterator[str]:
    if type(found) is not type(wanted):
        yield f"{prefix}kind {type(found).__name__} instead of {type(wanted).__name__}"
        return
    for field in dataclasses.fields(wanted):
        a, b = getattr(found, field.name), getattr(wanted, field.name)
        if dataclasses.is_dataclass(b):
            yield from _differences(a, b, f"{prefix}{field.name}.")
        elif a != b:
            yield f"{prefix}{field.name} {a} instead of {b}"


def _locate_in_folder(folder: Path) -> Location:
    """A model folder itself, or one model folder or several under RUN/model (or under `folder`)."""
    for root in (folder, folder / "model"):
        if model_folder.is_model_folder(root):
            return Location(kind="folder", path=root)
        children = sorted(root.iterdir()) if root.is_dir() else []
        models = [child for child in children if model_folder.is_model_folder(child)]
        if models and root.name == "model":
            return Location(kind="folder", path=models[0], others=tuple(models[1:]))
    if (folder / "checkpoints").is_dir():
        raise CheckpointError(
            f"run {str(folder)!r} has no model yet: let `esam train` finish, which writes it"
        )
    raise CheckpointError(f"{str(folder)!r} is no model: {_ACCEPTED}")
