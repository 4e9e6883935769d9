"""Annotation files: json from outside, read once and checked before it is used."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from esam_jax import files
from esam_jax.errors import DataError

_MAX_MASKS = 10_000  # of one picture


def read_json(path: Path, max_bytes: int) -> Mapping[str, Any]:
    """The object in a json file; DataError for anything else, NaN and infinity included."""

    def attempt() -> bytes:
        if path.stat().st_size > max_bytes:
            raise DataError(f"{path} is larger than {max_bytes} bytes")
        return path.read_bytes()

    text = files.read(path, attempt, "check the path")
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not json that can be used ({error})") from error
    if not isinstance(value, Mapping):
        raise DataError(f"{path} holds a {type(value).__name__}, but must hold an object")
    return value


def field(entry: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """entry[key], checked to be of this kind; the error names `where` it was looked for."""
    if not isinstance(entry, Mapping) or key not in entry:
        raise DataError(f"{where} has no {key!r}")
    value = entry[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"{where} has a {key!r} of type {type(value).__name__}")
    return value


def segmentations(annotations: list[Any], kind: type | tuple[type, ...], name: str) -> list[Any]:
    """What each mask of the picture `name` is made of; DataError where they cannot all be meant."""
    if len(annotations) > _MAX_MASKS:
        raise DataError(f"{name} has {len(annotations)} masks, but at most {_MAX_MASKS} are read")
    seen: set[int] = set()
    found = []
    for number, annotation in enumerate(annotations):
        found.append(field(annotation, "segmentation", kind, f"{name}: mask {number}"))
        identity = annotation.get("id")
        if isinstance(identity, int):
            if identity in seen:
                raise DataError(f"{name}: the mask id {identity} is there twice")
            seen.add(identity)
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")
