"""Write and read a model folder: `config.json` beside `model.safetensors`.

The tensors are named by their parameter path joined with "/". Reading runs no code from the file
and is strict: the tensors that the config requires are found by tracing `Sam.init` (no arithmetic
is done), and a file that holds anything else is refused. Tensors that only another layout needs may
lie beside them in `unused.safetensors`, under that layout's names. `config.json` holds the SHA-256
of both, so that a damaged file is detected; older folders lack it.
"""

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np

from esam_jax import files, outputs
from esam_jax.config import ModelConfig
from esam_jax.config import json as config_json
from esam_jax.convert import provenance
from esam_jax.convert.formats import bounds, tensor_files
from esam_jax.errors import CheckpointError, ConfigError, EsamError
from esam_jax.models import expected_shapes
from esam_jax.typing import Params

FORMAT = 1
THRESHOLDS = ("pred_iou_thresh", "stability_score_thresh")  # of segment-everything
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
UNUSED_FILE = "unused.safetensors"

_UNUSED_TYPES = (*tensor_files.FLOATS, "int64")
_MOST_JSON_BYTES = 1_000_000  # a config has a few thousand


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A model as it lies on disk: float32 numpy parameters in a nested dict.

    `untrained` names parts ("prompt", "encoder/neck") that still hold their random first values;
    "decoder/single_mask" stands for the output of mask token 0, which is not a separate branch.
    `unused` is what `write` was given, in its own dtypes. `notes` say what was chosen, cast or left
    out when it was read from a file of another layout. `thresholds` are the model's own for
    segment-everything, by the names in THRESHOLDS, where those of SAM do not suit its scores.
    """

    config: ModelConfig
    params: Params
    source: str
    licence: str = "unstated"
    untrained: tuple[str, ...] = ()
    unused: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    thresholds: Mapping[str, float] = dataclasses.field(default_factory=dict)


def write(
    folder: str | Path,
    config: ModelConfig,
    params: Params,
    *,
    source: str,
    licence: str = "unstated",
    untrained: tuple[str, ...] = (),
    unused: Mapping[str, np.ndarray] | None = None,
    thresholds: Mapping[str, float] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes the folder atomically; `overwrite` lets it replace a model folder of that name.

    `source` says where the weights came from, for people. `unused` holds tensors of another layout
    that belong to no parameter, by that layout's names: floats of 16 or 32 bits, or int64.
    CheckpointError when it holds others, or when `params` are not exactly those of `config` or no
    floats; ExistsError when other files lie in the folder; MissingError when it cannot be written.
    """
    folder = Path(folder)
    tensors = {path: np.asarray(x) for path, x in _flatten(params).items()}
    shapes = {path: x.shape for path, x in tensors.items()}
    expected_shapes.check(shapes, config, "these parameters")
    _refuse_odd(tensors, tensor_files.FLOATS, "these parameters")
    carried = {name: np.asarray(x) for name, x in (unused or {}).items()}
    _refuse_odd(carried, _UNUSED_TYPES, "unused")
    header: dict[str, Any] = {
        "format": FORMAT,
        "source": source,
        "licence": licence,
        "untrained": list(untrained),
        **({"thresholds": dict(thresholds)} if thresholds else {}),
        "model": config_json.to_json(config),
    }
    outputs.require_new_folder(folder, overwrite=overwrite, is_own=is_own)
    with files.replacing_folder(folder, remedy="name another folder") as fresh:
        tensor_files.write_safetensors(fresh / WEIGHTS_FILE, tensors)
        if carried:
            tensor_files.write_safetensors(fresh / UNUSED_FILE, carried)
        header["sha256"] = {file.name: bounds.sha256(file) for file in sorted(fresh.iterdir())}
        (fresh / CONFIG_FILE).write_text(json.dumps(header, indent=2) + "\n")


def read(folder: str | Path, config_json: Mapping[str, Any] | None = None) -> ModelFile:
    """The model in a folder; CheckpointError unless config and weights agree exactly.

    `config_json` is the object in its config.json, where that has been read.

    Where the config knows their SHA-256, files of other bits are refused: a second for 1 to 2 GB.
    """
    folder = Path(folder)
    header = _header(folder, config_json)
    config = _read_config(header["model"])
    tensors = _read_weights(folder / WEIGHTS_FILE, config)
    unused = folder / UNUSED_FILE
    carried = _read_unused(unused) if unused.exists() else {}
    _check_sha256(folder, header["sha256"])
    return ModelFile(
        config=config,
        params=flax.traverse_util.unflatten_dict(tensors, sep="/"),
        source=header["source"],
        licence=header["licence"],
        untrained=tuple(header["untrained"]),
        unused=carried,
        thresholds=header["thresholds"],
    )


def is_model_folder(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file() and (folder / WEIGHTS_FILE).is_file()


def is_own(folder: Path) -> bool:
    """Whether a folder holds nothing but what `write` writes, so that it may be replaced."""
    names = {CONFIG_FILE, WEIGHTS_FILE, UNUSED_FILE}
    if not is_model_folder(folder) or not {each.name for each in folder.iterdir()} <= names:
        return False
    try:
        return {"format", "source", "model"} <= json_of(folder).keys()
    except EsamError:
        return False


def json_of(folder: Path) -> dict[str, Any]:
    """The object in a folder's config.json, ours or a library's; CheckpointError if it is none."""
    # Python's libraries write NaN and Infinity, which none of our configs takes.
    return files.read_json(
        folder / CONFIG_FILE, max_bytes=_MOST_JSON_BYTES, error=CheckpointError, finite=False
    )


def _flatten(params: Params) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(params, sep="/")


def _read_weights(file: Path, config: ModelConfig) -> dict[str, np.ndarray]:
    found = tensor_files.read(file).tensors
    shapes = {name: x.shape for name, x in found.items()}
    expected_shapes.check_size(config, shapes, f"{file}")
    expected_shapes.check(shapes, config, f"{file}")
    _refuse_odd(found, tensor_files.FLOATS, f"{file}")
    return {name: np.asarray(x, np.float32) for name, x in found.items()}


def _read_unused(file: Path) -> dict[str, np.ndarray]:
    found = dict(tensor_files.read(file).tensors)
    _refuse_odd(found, _UNUSED_TYPES, f"{file}")
    return found


def _check_sha256(folder: Path, known: Mapping[str, str]) -> None:
    """CheckpointError unless the files that are known have the bits that were written."""
    for name, wanted in known.items():
        try:
            found = bounds.sha256(folder / name)
        except OSError as error:
            raise CheckpointError(
                f"{folder / name} cannot be read ({error}), but {CONFIG_FILE} lists it; copy the "
                "folder again"
            ) from error
        if found != wanted:
            raise CheckpointError(
                f"{folder / name} is damaged or not the file that {CONFIG_FILE} was written for: "
                f"its SHA-256 is {found}, not {wanted}; copy the folder again"
            )


def _refuse_odd(found: Mapping[str, np.ndarray], allowed: Collection[str], holder: str) -> None:
    """CheckpointError for tensors of other dtypes, or with numbers that no model has."""
    odd = sorted(name for name, x in found.items() if x.dtype.name not in allowed)
    if odd:
        integers = " or int64" if "int64" in allowed else ""
        raise CheckpointError(
            f"{holder} holds {', '.join(odd)} in types other than float{integers}"
        )
    broken = sorted(name for name, x in found.items() if not np.isfinite(x).all())
    if broken:
        raise CheckpointError(f"{holder} holds NaN or infinity in {', '.join(broken)}")


# ------------------------------------------------------------------------------ config.json


def _read_config(value: Any) -> ModelConfig:
    try:
        return config_json.from_json(ModelConfig, value, "model")
    except ConfigError as error:
        raise CheckpointError(f"the model config is invalid: {error}") from error
    except RecursionError as error:
        raise CheckpointError("the model config is nested too deeply to be one") from error


def _require_keys(value: dict[str, Any], wanted: set[str], where: str) -> None:
    for wrong, verb in ((wanted - value.keys(), "lacks"), (value.keys() - wanted, "has unknown")):
        if wrong:
            raise CheckpointError(f"{where} {verb} {', '.join(sorted(wrong))}")


def _header(folder: Path, config_json: Mapping[str, Any] | None) -> dict[str, Any]:
    file = folder / CONFIG_FILE
    stored = json_of(folder) if config_json is None else config_json
    header = {"sha256": {}, "thresholds": {}, **stored}
    _require_keys(
        header,
        {"format", "source", "licence", "untrained", "thresholds", "model", "sha256"},
        str(file),
    )
    if header["format"] != FORMAT:
        raise CheckpointError(
            f"{file} has format {bounds.shown(header['format'])}; this release reads {FORMAT}"
        )
    provenance.require_texts(header["untrained"], f"{file}: untrained")
    if not all(isinstance(header[key], str) for key in ("source", "licence")):
        raise CheckpointError(f"{file}: source and licence must be text")
    _check_listing(header["sha256"], str(file))
    thresholds(header, str(file))
    return header


def thresholds(header: Mapping[str, Any], where: str) -> Mapping[str, float]:
    """Those of a config.json; CheckpointError unless each of THRESHOLDS is from 0 to 1."""
    found = header.get("thresholds", {})
    if not isinstance(found, dict) or not found.keys() <= {*THRESHOLDS}:
        raise CheckpointError(f"{where}: thresholds may have {' and '.join(THRESHOLDS)} alone")
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise CheckpointError(f"{where}: thresholds: {name} must be a number from 0 to 1")
    return found


def _check_listing(value: Any, where: str) -> None:
    """CheckpointError unless it gives a text for nothing but files of a model folder."""
    if not isinstance(value, dict) or not value.keys() <= {WEIGHTS_FILE, UNUSED_FILE}:
        raise CheckpointError(f"{where}: sha256 may list {WEIGHTS_FILE} and {UNUSED_FILE} alone")
    if not all(isinstance(digest, str) for digest in value.values()):
        raise CheckpointError(f"{where}: each of sha256 must be text")
