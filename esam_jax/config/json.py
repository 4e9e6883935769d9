"""The config.json of a run folder back as the config that it was written from."""

import dataclasses
import types
import typing
from typing import Any, Literal, TypeVar

from esam_jax.errors import ConfigError

Config = TypeVar("Config")


def parse(kind: type[Config], value: Any, where: str) -> Config:
    """The config that `dataclasses.asdict` made plain JSON of; ConfigError for any other value.

    Where a field takes several dataclasses, the value's `kind` tells which. A field that an earlier
    release did not have gets its default.
    """
    return _parse(kind, value, where)


def _parse(hint: Any, value: Any, where: str) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return _parse_one_of(typing.get_args(hint), value, where)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        needed = {f.name for f in dataclasses.fields(hint) if f.default is dataclasses.MISSING}
        odd = [repr(value)]
        if isinstance(value, dict):
            odd = sorted((value.keys() - hints.keys()) | (needed - value.keys()))
        if odd:
            raise ConfigError(f"{where} is no {hint.__name__} of this release: {', '.join(odd)}")
        return hint(**{key: _parse(hints[key], value[key], f"{where}.{key}") for key in value})
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        (element, *_) = typing.get_args(hint)
        return tuple(_parse(element, each, where) for each in value)
    if typing.get_origin(hint) is Literal:
        fits = value in typing.get_args(hint)
    else:
        fits = type(value) in ((int, float) if hint is float else (hint,))
    _require(fits, where, value, "has another type in this release")
    return value


def _parse_one_of(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in hints:
        return None
    rest = [hint for hint in hints if hint is not type(None)]
    if len(rest) > 1 and isinstance(value, dict):
        rest = [hint for hint in rest if getattr(hint, "kind", None) == value.get("kind")]
    _require(len(rest) == 1, where, value, "has a kind that this release does not know")
    return _parse(rest[0], value, where)


def _require(ok: bool, where: str, value: Any, rule: str) -> None:
    if not ok:
        raise ConfigError(f"{where} is {value!r:.80}, which {rule}: convert it with that release")
