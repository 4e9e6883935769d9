"""Configs of models and runs as plain JSON and back, and what differs between two."""

import dataclasses
import json
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, TypeVar

from esam_jax.config import rules
from esam_jax.config.rules import Config
from esam_jax.errors import ConfigError

Read = TypeVar("Read", bound=Config)

_REMEDY = "use the release that wrote it"


def to_json(config: Config) -> dict[str, Any]:
    """The config as plain JSON values; `kind` comes first where its class has one."""
    kind = getattr(config, "kind", None)
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return ({} if kind is None else {"kind": kind}) | {
        name: _plain(value) for name, value in fields.items()
    }


def from_json(kind: type[Read] | types.UnionType, value: Any, where: str) -> Read:
    """The config that `to_json` wrote; ConfigError names the first key that breaks a rule.

    `kind` may be a union: then the value's `kind` picks one. A field that an earlier release did
    not have gets its default. A key that is a constant or computed in this release must hold that
    value, one of `RETIRED` is dropped, and any other is refused. What is read is bounded by the
    types and the rules of the fields, so that the value may be anything.
    """
    return _read(kind, value, where)


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Each value in which two trees of JSON differ: its path, and both; None where it is absent.

    The order is that of `new`, and what it lacks comes last. Of two configs of different kinds only
    the kinds are given.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        if old.get("kind") != new.get("kind"):
            old, new = {"kind": old.get("kind")}, {"kind": new.get("kind")}
        for key in [*new, *(key for key in old if key not in new)]:
            below = f"{path}.{key}" if path else key
            yield from differences(old.get(key), new.get(key), below)
    elif old != new:
        yield path, old, new


def may_differ(kind: type[Config], path: str) -> bool:
    """Whether a resumed run may change the value at `path` ("save.keep"), by its `MAY_DIFFER`."""
    name, _, rest = path.partition(".")
    hint = rules.hints(kind).get(name)
    bare, words = rules.plain(hint)
    if rules.MAY_DIFFER in words:
        return True
    return bool(rest) and any(may_differ(each, rest) for each in members(bare))


def members(hint: Any) -> tuple[type[Config], ...]:
    """The config classes that a field takes."""
    bare, _ = rules.plain(hint)
    union = typing.get_args(bare) if _is_union(bare) else (bare,)
    return tuple(each for each in union if isinstance(each, type) and issubclass(each, Config))


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (types.UnionType, typing.Union)


def _plain(value: Any) -> Any:
    return to_json(value) if isinstance(value, Config) else json.loads(json.dumps(value))


def _read(hint: Any, value: Any, where: str) -> Any:
    hint, _ = rules.plain(hint)
    options = typing.get_args(hint) if _is_union(hint) else (hint,)
    if value is None and type(None) in options:
        return None
    configs = members(hint)
    if configs:
        return _read_config(_member(configs, value, where), value, where)
    bare: Any = rules.plain(next(each for each in options if each is not type(None)))[0]
    if typing.get_origin(bare) is tuple and isinstance(value, list):
        element = typing.get_args(bare)[0]
        return tuple(_read(element, each, f"{where}[{i}]") for i, each in enumerate(value))
    return _leaf(bare, value, where)


def _is_fixed(kind: type[Config], key: str) -> bool:
    """Whether it is a constant or a property of the class."""
    known = getattr(kind, key, None)
    return not (known is None or callable(known) or key.startswith("_"))


def _leaf(hint: Any, value: Any, where: str) -> Any:
    if hint is float and type(value) is int and abs(value) < 2**53:
        value = float(value)
    fits = value in typing.get_args(hint) if _is_literal(hint) else type(value) is hint
    _require(fits, where, value, f"must be {_words(hint)}")
    return value


def _member(configs: tuple[type[Config], ...], value: Any, where: str) -> type[Config]:
    """The one whose `kind` the value names; one without a kind needs none to be named."""
    wanted = value.get("kind") if isinstance(value, dict) else None
    kinds = {kind: each for each in configs if (kind := getattr(each, "kind", None))}
    plain = [each for each in configs if each not in kinds.values()]
    if len(configs) == 1 or (wanted is None and plain):
        return configs[0] if len(configs) == 1 else plain[0]
    if not isinstance(wanted, str) or wanted not in kinds:
        raise ConfigError(f"{where}.kind is {wanted!r:.80}, but must be one of {', '.join(kinds)}")
    return kinds[wanted]


def _read_config(kind: type[Config], value: Any, where: str) -> Config:
    _require(isinstance(value, dict), where, value, "must be a JSON object")
    hints = rules.hints(kind)
    needed = {f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING}
    others = sorted(value.keys() - hints.keys() - {*kind.RETIRED})
    unknown = [key for key in others if not _is_fixed(kind, key)]
    for wrong, verb in ((needed - value.keys(), "lacks"), (unknown, "has unknown")):
        if wrong:
            raise ConfigError(f"{where} {verb} {', '.join(sorted(wrong))}: {_REMEDY}")
    fields = {
        key: _read(hint, value[key], f"{where}.{key}")
        for key, hint in hints.items()
        if key in value
    }
    try:
        config = kind(**fields)
    except ConfigError as error:  # it begins with the name of a field
        raise ConfigError(f"{where}.{error}") from error
    for key in others:
        fixed = getattr(config, key)
        fits = type(value[key]) is type(fixed) and value[key] == fixed
        _require(fits, f"{where}.{key}", value[key], f"is always {fixed!r:.80} here: {_REMEDY}")
    return config


def _is_literal(hint: Any) -> bool:
    return typing.get_origin(hint) is Literal


def _words(hint: Any) -> str:
    if _is_literal(hint):
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"
    words = {int: "an integer", float: "a number", str: "text"}
    return words.get(hint, "a list")


def _require(ok: bool, where: str, value: Any, rule: str) -> None:
    if not ok:
        raise ConfigError(f"{where} is {value!r:.80}, but {rule}")
