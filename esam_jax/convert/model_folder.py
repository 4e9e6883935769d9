"""Write and read a model folder: `config.json` beside `model.safetensors`.

The tensors are named by their parameter path joined with "/". Reading runs no code from the file
and is strict: what the config asks for is worked out by tracing `Sam.init` (no arithmetic is done),
and a file that holds anything else is refused whole.
"""

import collections
import dataclasses
import functools
import json
import os
import shutil
import struct
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from esam_jax.config import DecoderConfig, SamConfig, SamVitConfig, VitConfig
from esam_jax.errors import CheckpointError, ConfigError, MissingError
from esam_jax.models.efficient_sam import Sam
from esam_jax.typing import Params

FORMAT = 1
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"

_ENCODERS = {"vit": VitConfig, "sam_vit": SamVitConfig}
_LARGEST = (
    16_384  # no size in a config may exceed this, so that a hostile one stays cheap to refuse
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A model as it lies on disk: float32 numpy parameters in a nested dict.

    `untrained` names parts ("prompt", "encoder/neck") that still hold their random first values;
    "decoder/single_mask" stands for the output of mask token 0, which is no branch of its own.
    """

    config: SamConfig
    params: Params
    source: str
    licence: str = "unstated"
    untrained: tuple[str, ...] = ()


def write(
    folder: str | Path,
    config: SamConfig,
    params: Params,
    *,
    source: str,
    licence: str = "unstated",
    untrained: tuple[str, ...] = (),
) -> None:
    """Puts the folder in place whole, replacing one of that name.

    `source` says where the weights came from, for people. CheckpointError when `params` are not
    exactly those of `config`; MissingError when the folder cannot be written.
    """
    folder = Path(folder)
    tensors = {path: np.asarray(x) for path, x in _flatten(params).items()}
    check_shapes({path: x.shape for path, x in tensors.items()}, config, "these parameters")
    header = {
        "format": FORMAT,
        "source": source,
        "licence": licence,
        "untrained": list(untrained),
        "model": to_json(config),
    }
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}.new")
    try:
        fresh.mkdir(parents=True)
        (fresh / CONFIG_FILE).write_text(json.dumps(header, indent=2) + "\n")
        contiguous = {path: np.ascontiguousarray(x, np.float32) for path, x in tensors.items()}
        safetensors.numpy.save_file(contiguous, fresh / WEIGHTS_FILE)
        # safetensors makes a file that only its owner may read; the config has the usual mode.
        (fresh / WEIGHTS_FILE).chmod((fresh / CONFIG_FILE).stat().st_mode)
        _replace(folder, fresh)
    except OSError as error:
        raise MissingError(f"{folder} cannot be written ({error}); name another folder") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def read(folder: str | Path) -> ModelFile:
    """The model in a folder; CheckpointError unless config and weights agree exactly."""
    folder = Path(folder)
    header = _read_header(folder / CONFIG_FILE)
    config = from_json(header["model"])
    tensors = _read_tensors(folder / WEIGHTS_FILE, config)
    return ModelFile(
        config=config,
        params=flax.traverse_util.unflatten_dict(tensors, sep="/"),
        source=header["source"],
        licence=header["licence"],
        untrained=tuple(header["untrained"]),
    )


def is_model_folder(folder: Path) -> bool:
    return (folder / CONFIG_FILE).is_file() and (folder / WEIGHTS_FILE).is_file()


# ------------------------------------------------------------------------------- parameters


@functools.lru_cache(maxsize=16)
def expected_shapes(config: SamConfig) -> Mapping[str, tuple[int, ...]]:
    """Parameter path -> shape of a whole model, by tracing alone."""
    px = config.image_px
    variables = jax.eval_shape(
        Sam(config).init,
        jax.random.key(0),
        jax.ShapeDtypeStruct((1, px, px, 3), jnp.float32),
        jax.ShapeDtypeStruct((1, 1, 2, 2), jnp.float32),
        jax.ShapeDtypeStruct((1, 1, 2), jnp.int32),
    )
    shapes = {path: leaf.shape for path, leaf in _flatten(variables["params"]).items()}
    return types.MappingProxyType(shapes)


def check_shapes(found: Mapping[str, tuple[int, ...]], config: SamConfig, holder: str) -> None:
    """CheckpointError listing every missing, unexpected and mis-shaped parameter of `holder`."""
    wanted = expected_shapes(config)
    wrong = [
        f"{path} is {tuple(found[path])}, not {wanted[path]}"
        for path in sorted(found.keys() & wanted.keys())
        if tuple(found[path]) != wanted[path]
    ]
    faults = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unexpected": sorted(found.keys() - wanted.keys()),
        "of another shape": wrong,
    }
    listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in faults.items() if names)
    if listed:
        raise CheckpointError(f"{holder} do not fit the model config; {listed}")


def _flatten(params: Params) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(params, sep="/")


def _read_tensors(file: Path, config: SamConfig) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(file, framework="numpy") as opened:
            _refuse_duplicates(file)
            names = opened.keys()
            if config.encoder.depth + config.decoder.depth > len(names):  # before it is traced
                raise CheckpointError(f"{file} holds {len(names)} tensors, fewer than its layers")
            slices = {name: opened.get_slice(name) for name in names}
            check_shapes({n: tuple(s.get_shape()) for n, s in slices.items()}, config, f"{file}")
            odd = sorted(
                n for n, s in slices.items() if s.get_dtype() not in ("F32", "F16", "BF16")
            )
            if odd:
                raise CheckpointError(
                    f"{file} holds {', '.join(odd)} as something else than floats"
                )
            tensors = {name: opened.get_tensor(name).astype(np.float32) for name in names}
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is no whole safetensors file ({error}); copy it anew"
        ) from error
    broken = sorted(name for name, x in tensors.items() if not np.isfinite(x).all())
    if broken:
        raise CheckpointError(f"{file} holds NaN or infinity in {', '.join(broken)}")
    return tensors


def _refuse_duplicates(file: Path) -> None:
    """The library keeps one of two tensors of the same name without a word."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        pairs = json.loads(opened.read(length), object_pairs_hook=lambda pairs: pairs)
    doubled = [name for name, n in collections.Counter(name for name, _ in pairs).items() if n > 1]
    if doubled:
        raise CheckpointError(f"{file} names {', '.join(sorted(doubled))} more than once")


def _replace(folder: Path, fresh: Path) -> None:
    """Renames `fresh` to `folder`; a full folder cannot be renamed over, so it moves out first."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


# ------------------------------------------------------------------------------ config.json


def to_json(config: SamConfig) -> dict[str, Any]:
    """The model config as plain JSON values; `from_json` gives it back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_json(value: Any) -> SamConfig:
    """The model config that `to_json` wrote; CheckpointError names the first key that is off."""
    _require_keys(value, {"encoder", "decoder"}, "model")
    kind = value["encoder"].get("kind") if isinstance(value["encoder"], dict) else None
    if kind not in list(_ENCODERS):  # a list in the file is not hashable
        raise CheckpointError(
            f"model.encoder.kind is {kind!r}, but must be one of {list(_ENCODERS)}"
        )
    try:
        return SamConfig(
            encoder=_parse(_ENCODERS[kind], value["encoder"], "model.encoder"),
            decoder=_parse(DecoderConfig, value["decoder"], "model.decoder"),
        )
    except ConfigError as error:
        raise CheckpointError(f"the model config breaks a rule: {error}") from error


def _parse(kind: type, value: Any, where: str) -> Any:
    hints = typing.get_type_hints(kind)
    _require_keys(value, set(hints), where)
    fields = {}
    for key, hint in hints.items():
        fields[key] = tuple(value[key]) if isinstance(value[key], list) else value[key]
        if not _fits(fields[key], hint):
            raise CheckpointError(f"{where}.{key} is {value[key]!r}, but must be {_wording(hint)}")
    return kind(**fields)


def _fits(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    if hint is int:
        return type(value) is int and 0 < value <= _LARGEST
    return isinstance(value, tuple) and all(type(x) is int for x in value)


def _wording(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return f"one of {list(typing.get_args(hint))}"
    return f"a whole number from 1 to {_LARGEST}" if hint is int else "a list of whole numbers"


def _require_keys(value: Any, wanted: set[str], where: str) -> None:
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} is {value!r:.80}, but must be a JSON object")
    for wrong, verb in ((wanted - value.keys(), "lacks"), (value.keys() - wanted, "has unknown")):
        if wrong:
            raise CheckpointError(f"{where} {verb} {', '.join(sorted(wrong))}")


def _read_header(file: Path) -> dict[str, Any]:
    try:
        header = json.loads(file.read_text())
    except OSError as error:
        raise MissingError(f"{file} cannot be read ({error}); a model folder needs it") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not JSON ({error})") from error
    _require_keys(header, {"format", "source", "licence", "untrained", "model"}, str(file))
    if header["format"] != FORMAT:
        raise CheckpointError(
            f"{file} has format {header['format']!r}; this release reads {FORMAT}"
        )
    if not isinstance(header["untrained"], list):
        raise CheckpointError(f"{file}: untrained must be a list")
    if not all(
        isinstance(x, str) for x in (header["source"], header["licence"], *header["untrained"])
    ):
        raise CheckpointError(f"{file}: source, licence and each of untrained must be text")
    return header
