"""The keys of a run as options of the command line: what they change, and the help on them."""

import contextlib
import dataclasses
import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, NoReturn

import tyro

from esam_jax.cli import arguments
from esam_jax.config import EvaluateConfig, RunConfig, json, rules
from esam_jax.config.rules import Config
from esam_jax.errors import ConfigError

_UNPREFIXED = tyro.conf.arg(name="")


def parse(config: RunConfig, keys: Sequence[str], *, prog: str) -> RunConfig:
    """The config with the keys changed; ConfigError, in one line, for one that does not parse.

    A key below `evaluate`, or an optional part of the task, turns it on where the config has none.
    """
    config = _with_named(config, keys)
    return arguments.parse(RunConfig, keys, prog=prog, default=config)


def named(keys: Sequence[str]) -> set[str]:
    """The paths in the config that the keys change: "optim.peak_lr" of --optim.peak-lr."""
    options = (key[2:].partition("=")[0] for key in keys if key.startswith("--"))
    return {option.replace("-", "_") for option in options}


def require(
    config: RunConfig, named: Iterable[str], keys: Sequence[str], *, option: str, prog: str
) -> None:
    """ConfigError unless the config with the keys has each of those `named` to `option`."""
    config, _ = arguments.of_kinds(_with_named(config, keys), keys, prog)
    for key in named:
        if not key.endswith(".kind"):
            arguments.require_key(key, config, option, prog)


def show(where: type, config: RunConfig, argv: Sequence[str], *, prog: str) -> NoReturn:
    """Prints the help on the options of `where` and on every key of the config, and exits.

    That includes the keys of what the config leaves off. A `--PATH.kind NAME` among the other
    arguments shows the keys of that kind.
    """
    shown, off = config, []
    for path in _optional(config):
        with contextlib.suppress(ConfigError):  # of a task that has nothing to measure
            shown = _with(shown, path)
            off.append(path)
    shown, _ = arguments.of_kinds(shown, argv, prog)
    notes = [inspect.getdoc(where) or "", *_notes(shown, off)]
    fields = [
        ("where", Annotated[where, _UNPREFIXED]),
        ("run", Annotated[RunConfig, _UNPREFIXED], dataclasses.field(default=shown)),
    ]
    all_of_them = dataclasses.make_dataclass("Options", fields, frozen=True)
    arguments.help_on(all_of_them, prog=prog, about="\n\n".join(notes))


def _notes(shown: RunConfig, off: Sequence[str]) -> Iterator[str]:
    """Which of the keys in the help are off, and which others there are."""
    for path in off:
        yield (
            f"{path} is off in this config: any of its keys turns it on, with the values shown "
            "below for the others."
        )
    kinds: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for path, kind, keys in arguments.other_kinds(shown):
        kinds.setdefault((path, tuple(keys)), []).append(kind)
    lines = []
    for (path, keys), names in kinds.items():
        options = [f"--{path}.{key}".replace("_", "-") for key in keys]
        lines.append(f"--{path}.kind {'|'.join(names)}: {', '.join(options) or 'none'}")
    if lines:
        about = "Other kinds have further keys; --help after such an option shows them:"
        yield "\n".join([about, *lines])


def _with_named(config: RunConfig, keys: Sequence[str]) -> RunConfig:
    """The config with those of its optional parts of which there is a key."""
    for path in _optional(config):
        if any(key.startswith(f"--{path.replace('_', '-')}.") for key in keys):
            config = _with(config, path)
    return config


def _optional(config: RunConfig) -> dict[str, type[Config]]:
    """What the config and its task leave off, by its path."""
    parts: list[tuple[str, Any]] = [("", config), ("task.", config.task)]
    return {
        prefix + field.name: members[0]
        for prefix, part in parts
        for field in dataclasses.fields(part)
        if getattr(part, field.name) is None
        and len(members := json.members(rules.hints(type(part))[field.name])) == 1
    }


def _with(config: RunConfig, path: str) -> RunConfig:
    """The config with that part: a measurement is on the data that it trains on."""
    kind = _optional(config)[path]
    if kind is EvaluateConfig:
        return dataclasses.replace(config, evaluate=EvaluateConfig(source=config.data.source))
    task = dataclasses.replace(config.task, **{path.removeprefix("task."): kind()})
    return dataclasses.replace(config, task=task)
