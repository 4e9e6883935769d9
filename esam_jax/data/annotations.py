"""Annotation files: json from outside, read once and checked before it is used."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from esam_jax.errors import DataError, MissingError


def read_json(path: Path, max_bytes: int) -> Mapping[str, Any]:
    """The object in a json file; DataError for anything else, NaN and infinity included."""
    try:
        if path.stat().st_size > max_bytes:
            raise DataError(f"{path} is larger than {max_bytes} bytes")
        text = path.read_bytes()
    except OSError as error:
        raise MissingError(f"{path} cannot be read: {error.strerror}") from error
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


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")
