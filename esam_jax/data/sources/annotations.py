"""Annotation files: JSON from outside, checked before it is used."""

from collections.abc import Mapping
from typing import Any

from esam_jax.errors import DataError

_MAX_MASKS = 10_000  # of one picture


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
                raise DataError(f"{name}: the mask id {identity} occurs twice")
            seen.add(identity)
    return found
