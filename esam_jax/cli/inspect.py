"""`esam inspect FILE`: what a file of weights is, before anything is done with it."""

import collections
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import tyro
from flax import traverse_util

from esam_jax.cli import arguments
from esam_jax.config import json as config_json
from esam_jax.convert import describe, load, model_folder, provenance, state_dict
from esam_jax.convert.families import registry
from esam_jax.convert.formats import tensor_files
from esam_jax.convert.load import Location
from esam_jax.errors import CheckpointError, ConfigError
from esam_jax.models import named

_SHOWN = 8  # names listed for people; --json has them all


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Family, sizes, dtypes, parameter count, unknown and missing names, provenance."""

    file: tyro.conf.Positional[str]
    """Anything that `esam convert` reads, such as RUN@STEP for one checkpoint of a run."""
    json: bool = False
    """Print the result as JSON, with every name."""


def main(argv: Sequence[str]) -> int:
    """Prints what can be said; a file of no known family is described, not refused."""
    args = arguments.parse(Inspect, argv, prog="esam inspect")
    found = load.locate(args.file)
    result = _folder(found) if found.kind in ("folder", "checkpoint") else _file(found)
    print(json.dumps(result) if args.json else _lines(result))
    return 0


def _folder(found: Location) -> dict[str, Any]:
    file = load.model_file(found)
    tensors: Mapping[Any, Any]
    if found.kind == "checkpoint":
        family = "checkpoint of a run of esam_jax"
        tensors = traverse_util.flatten_dict(file.params)
    else:
        family = "model folder of esam_jax"
        tensors = tensor_files.read(found.path / model_folder.WEIGHTS_FILE).tensors
    return {
        "family": family,
        "model": named.name_of(file.config),
        "config": config_json.to_json(file.config),
        "dtypes": _dtypes(tensors),
        "parameters": describe.parameters(file),
        "sha256": describe.checksum(file.params),
        "untrained": list(file.untrained),
        "unused": sorted(file.unused),
        "source": file.source,
        "licence": file.licence,
    }


def _file(found: Location) -> dict[str, Any]:
    read, tensors, notes = load.tensors(found)
    result: dict[str, Any] = {
        "family": None,
        "format": read.format,
        "wrapped_in": read.wrapped,
        "notes": list(notes),
        "tensors": len(tensors),
        "values": sum(int(x.size) for x in tensors.values()),
        "dtypes": _dtypes(tensors),
        "metadata": dict(read.metadata),
        "source": found.address or str(found.path),
        "licence": found.licence,
    }
    try:
        family, config = load.recognise(tensors, found)
    except (CheckpointError, ConfigError) as error:
        names = sorted(tensors)
        return result | {"reason": str(error), "names": names}
    result |= {
        "family": f"{family.name} ({family.about})",
        "model": named.name_of(config),
        "config": config_json.to_json(config),
        "licence": found.licence or read.metadata.get(provenance.LICENCE, family.licence),
    }
    wanted, unused = registry.names(family, config), family.unused(config)
    known = {*unused, *family.aliases, *family.repeated}
    repeated = [name for name in family.repeated if name in tensors]
    if repeated:
        listed = ", ".join(repeated)
        result["notes"].append(f"not kept, for the shapes say the same: {listed}")
    result["notes"] += state_dict.remarks(tensors, family, config)
    result |= {
        "unknown": sorted(tensors.keys() - wanted - known),
        "missing": sorted(wanted - tensors.keys()),
        "parameters": None,
        "sha256": None,
    }
    try:
        params, unused = state_dict.to_params(tensors, family, config)
    except CheckpointError as error:
        return result | {"reason": str(error)}
    file = load.ModelFile(config=config, params=params, source="", unused=unused)
    return result | {
        "parameters": describe.parameters(file),
        "sha256": describe.checksum(params),
        "untrained": list(provenance.untrained(read.metadata, params, f"{found.path}")),
        "unused": sorted(unused),
    }


def _dtypes(tensors: Mapping[Any, Any]) -> dict[str, int]:
    """How many tensors there are of each dtype."""
    return dict(collections.Counter(x.dtype.name for x in tensors.values()))


def _lines(result: dict[str, Any]) -> str:
    lines = []
    for key, value in result.items():
        if value in (None, [], {}, ()):
            continue
        if isinstance(value, list):
            more = f" and {len(value) - _SHOWN} more" if len(value) > _SHOWN else ""
            value = f"{len(value)}: {', '.join(value[:_SHOWN])}{more}"
        elif isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        elif isinstance(value, int):
            value = f"{value:,}"
        lines.append(f"{key.replace('_', ' '):<12}{value}")
    return "\n".join(lines)
