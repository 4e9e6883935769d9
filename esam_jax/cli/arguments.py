"""Command-line arguments -> dataclasses, and the checks that commands make before any work."""

import dataclasses
import difflib
import functools
import inspect
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro
from tyro import _errors as tyro_errors  # has no public name: setup.py bounds the release

from esam_jax import configs
from esam_jax.config import RunConfig, json, rules
from esam_jax.config.rules import Config
from esam_jax.errors import ConfigError, EsamError, MissingError

Args = TypeVar("Args")

# Unions of configs keep the kind that the default has; flags have no --no-... twin.
_STYLE = (tyro.conf.AvoidSubcommands, tyro.conf.FlagCreatePairsOff)


def parse(kind: type[Args], argv: Sequence[str], *, prog: str, default: Args | None = None) -> Args:
    """The arguments as a `kind`; ConfigError, in one line, for what does not parse.

    Where a field of `default` takes several configs, `--PATH.kind NAME` puts another in its place:
    fields that both have keep their values, the others get their defaults.
    """
    if default is None:
        _require_known(argv, list(_keys(kind)), prog)
        return _call(kind, argv, prog)
    default, argv = of_kinds(default, argv, prog)
    known = [*_keys(default), *(f"{path}.kind" for path, _ in _unions(default))]
    _require_known(argv, known, prog, default)
    return _call(kind, argv, prog, default=default)


def parse_known(kind: type[Args], argv: Sequence[str], *, prog: str) -> tuple[Args, list[str]]:
    """As `parse`; the options that are not `kind`'s are returned."""
    return _call(kind, argv, prog, return_unknown_args=True)


def config_first(
    kind: type, argv: Sequence[str], *, prog: str, usage: str
) -> tuple[str, RunConfig, list[str]]:
    """Name and contents of the config that comes first, and the other arguments.

    ConfigError, with the `usage`, where none comes first, or where the user's own file fails.
    """
    if not argv:
        raise ConfigError(f"no config is named: write {usage}; {prog} --help lists them")
    if argv[0] in ("-h", "--help"):
        about = f"{inspect.getdoc(kind)}\n\nConfigs:\n{_configs()}"
        help_on(kind, prog=f"{prog} CONFIG", about=about)
    if argv[0].startswith("-"):
        raise ConfigError(f"the config comes first: write {usage}")
    name, *rest = argv
    try:
        return name, configs.load(name), rest
    except EsamError:
        raise
    except Exception as error:  # whatever the user's own file raises
        raise ConfigError(f"{name} cannot be loaded: {type(error).__name__}: {error}") from error


def part_of(text: str) -> tuple[int, int]:
    """Host I of N; ConfigError for what is no "I/N"."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not match or not int(match[1]) < int(match[2]):
        raise ConfigError(f"--part is {text!r}, but must be I/N with I from 0 to below N")
    return int(match[1]), int(match[2])


def _configs() -> str:
    """The name of each shipped config with what it is, a line each."""
    return "\n".join(f"- {name}: {configs.about(name)}" for name in configs.names())


def require_writable(folder: Path) -> None:
    """MissingError unless the folder, or the nearest above it, can be written; makes nothing."""
    nearest = folder.absolute()
    while not nearest.exists():
        if nearest.is_symlink():
            raise MissingError(
                f"{folder} cannot be made: {nearest} is a broken link; remove it, or name another "
                "folder"
            )
        nearest = nearest.parent
    if not nearest.is_dir():
        raise MissingError(f"{folder} cannot be made: {nearest} is a file; name another folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise MissingError(f"{folder} cannot be written: no permission in {nearest}; name another")


def require_defaults(args: Any, names: Sequence[str], rule: str) -> None:
    """ConfigError, which begins with the rule, where an option of these names was given."""
    defaults = {field.name: field.default for field in dataclasses.fields(args)}
    for name in names:
        if getattr(args, name) != defaults[name]:
            raise ConfigError(f"{rule} --{name.replace('_', '-')}: leave it out")


def _call(kind: Any, argv: Sequence[str], prog: str, **options: Any) -> Any:
    """tyro's parser, whose errors become ConfigErrors; --help prints and exits."""

    def refuse(event: tyro_errors.ParseErrorEvent) -> NoReturn:
        raise ConfigError(f"{_in_words(event)} ({prog} --help)")

    with tyro_errors.on_parse_error(refuse):
        return tyro.cli(kind, args=list(argv), prog=prog, config=_STYLE, **options)


def _plain(message: str) -> str:
    """Python's own words for what is no number are no help."""
    found = re.fullmatch(r"invalid literal for int\(\) with base 10: (.*)", message)
    if found:
        return f"{found[1]} is not a whole number"
    return re.sub(r"could not convert string to float: (.*)", r"\1 is not a number", message)


def _in_words(event: tyro_errors.ParseErrorEvent) -> str:
    """What is wrong, in one line."""
    match event:
        case tyro_errors.MissingArgs():
            return f"missing: {', '.join(_usage(each.arg) for each in event.missing_arguments)}"
        case tyro_errors.BadValue():
            return f"{event.argument.display_name()} needs a value: write {_usage(event.argument)}"
        case tyro_errors.InvalidChoice():
            name, known = event.argument.display_name(), ", ".join(event.choices)
            return f"{name} is {event.value!r}, but must be one of {known}"
        case tyro_errors.UnrecognizedArgs():
            remedy = ": a switch is on by its name alone, and off without it"
            is_value = event.tokens[0].lower() in ("true", "false", "yes", "no")
            return f"{' '.join(event.tokens)!r} is not an argument{remedy if is_value else ''}"
        case tyro_errors.InstantiationFailure() if event.argument is not None:
            return f"{event.argument.display_name()}: {_plain(event.message)}"
        case tyro_errors.InstantiationFailure():
            # A config has checked itself: its message begins with the name of a field of it. Only
            # the error that is being handled says which config, if it is a nested one.
            path = getattr(sys.exception(), "arg", "")
            return f"{path}.{event.message}" if path else event.message
        case _:
            return f"these arguments cannot be read ({type(event).__name__})"


def help_on(kind: type, *, prog: str, about: str) -> NoReturn:
    """Prints the help on the options of a dataclass, below the text `about`, and exits."""
    tyro.cli(kind, args=["--help"], prog=prog, config=_STYLE, description=about)
    raise AssertionError("--help exits")


def other_kinds(config: Config) -> Iterator[tuple[str, str, list[str]]]:
    """For each config that can take the place of a nested one: path, kind, and keys it adds."""
    for path, kinds in _unions(config):
        value: Any = functools.reduce(getattr, path.split("."), config)
        *above, field = path.split(".")
        holder = functools.reduce(getattr, above, config)
        for kind in kinds:
            if kind != value.kind:
                member = _kinds(holder, field)[kind]
                keys = [key for key in _keys(member) if not hasattr(value, key)]
                yield path, kind, [each for key in keys for each in _below(member, key)]


def _below(kind: type, key: str) -> Iterator[str]:
    """A key of a config, or those of the optional part that it turns on."""
    parts = json.members(rules.hints(kind)[key]) if getattr(kind, key, "") is None else ()
    if not parts:
        yield key
    for part in parts:
        yield from _keys(part, f"{key}.")


def _usage(argument: Any) -> str:
    """An option with what it takes: "--workdir PATH"; a positional argument as "IMAGE"."""
    if argument.is_positional():
        return argument.field.intern_name.upper()
    metavar = (argument.lowered.metavar or "").removeprefix("{None}|")
    return " ".join(filter(None, (*argument.lowered.name_or_flags[:1], metavar)))


def of_kinds(config: Any, argv: Sequence[str], prog: str) -> tuple[Any, list[str]]:
    """The config with the members of unions that are named, and the other arguments."""
    paths, names, rest, waiting = dict(_unions(config)), {}, [], list(argv)
    while waiting:
        argument = waiting.pop(0)
        option, _, name = argument.partition("=")
        path = option[2:].replace("-", "_").removesuffix(".kind")
        if not (option.startswith("--") and option.endswith(".kind") and path in paths):
            rest.append(argument)
        elif "=" in argument or waiting:
            names[path] = name if "=" in argument else waiting.pop(0)
        else:
            raise ConfigError(f"{option} needs a value ({prog} --help)")
        if path in names and names[path] not in paths[path]:
            known = ", ".join(paths[path])
            raise ConfigError(f"{option} is {names[path]!r}, but must be one of {known}")
    return _with_kinds(config, names), rest


def _with_kinds(config: Any, names: Mapping[str, str], prefix: str = "") -> Any:
    """All at once, for the checks of a config hold between several of its fields."""
    changes = {}
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), prefix + field.name
        if path in names and names[path] != value.kind:
            member = _kinds(config, field.name)[names[path]]
            changes[field.name] = _with_shared(member, value, path)
        elif isinstance(value, Config):
            changes[field.name] = _with_kinds(value, names, f"{path}.")
    try:
        return dataclasses.replace(config, **changes)
    except ConfigError as fault:  # which begins with the name of a field
        raise ConfigError(f"{prefix}{fault}") from None


def _with_shared(member: type[Config], value: Config, path: str) -> Config:
    """A config of another kind, with the values of the fields that both have."""
    fields = dataclasses.fields(member)
    shared = {each.name: getattr(value, each.name) for each in fields if hasattr(value, each.name)}
    needed = [each.name for each in fields if each.default is dataclasses.MISSING]
    if lacking := [name for name in needed if name not in shared]:
        raise ConfigError(
            f"--{path}.kind cannot be changed here: {', '.join(lacking)} would have no value; "
            "start from another config"
        )
    return member(**shared)


def _unions(config: Any, prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    """The fields that take several configs, by their path, with the kinds of those."""
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), prefix + field.name
        if isinstance(value, Config):
            if kinds := _kinds(config, field.name):
                yield path, list(kinds)
            yield from _unions(value, f"{path}.")


def _kinds(config: Config, field: str) -> dict[str, type[Config]]:
    members = json.members(rules.hints(type(config))[field])
    found = {getattr(each, "kind", ""): each for each in members}
    return found if len(found) > 1 else {}


def _require_known(argv: Sequence[str], known: list[str], prog: str, config: Any = None) -> None:
    """ConfigError for the first option that does not exist, with the one that is nearest."""
    known = [each.replace("_", "-") for each in known]
    for argument in argv:
        option = argument.split("=")[0].replace("_", "-")
        if option.startswith("--") and option[2:] not in (*known, "help"):
            hint = _hint(option[2:], known, prog, config, dashes="--")
            raise ConfigError(f"{prog} has no option {option}: {hint}")


def require_key(key: str, config: Config, option: str, prog: str) -> None:
    """ConfigError unless the config has a value of this name, which was given to `option`."""
    known = [each.replace("_", "-") for each in _keys(config)]
    if key.replace("_", "-") not in known:
        hint = _hint(key.replace("_", "-"), known, prog, config)
        raise ConfigError(f"{option} names {key!r}, which {prog} does not have: {hint}")


def _hint(key: str, known: list[str], prog: str, config: Any, dashes: str = "") -> str:
    """What to do about a key that does not exist."""
    if why := _why_absent(config, key.replace("-", "_").split(".")):
        return why
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"did you mean {dashes}{close[0]}?" if close else f"{prog} --help lists them all"


def _why_absent(config: Any, path: list[str]) -> str | None:
    """What became of an option of an earlier release, or which kind of config has it."""
    *parents, name = path
    holder, holds = None, config
    for parent in parents:
        holder, holds = holds, getattr(holds, parent, None)
    if not isinstance(holds, Config):
        return None
    others = _kinds(holder, parents[-1]).items() if isinstance(holder, Config) else ()
    having = [kind for kind, each in others if name in rules.hints(each)]
    if having:
        return f"add --{'.'.join(parents)}.kind {'|'.join(having)}, which have it"
    if name in holds.RETIRED:
        return "it is not needed any more, leave it out"
    constant = getattr(type(holds), name, None)
    if isinstance(constant, int | float | str):
        return f"it is always {constant} in this release, leave it out"
    return None


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    """Names of the options of a dataclass, or of an instance of nested ones."""
    for field in dataclasses.fields(config):
        name, value = prefix + field.name, getattr(config, field.name, None)
        if dataclasses.is_dataclass(value):
            yield from _keys(value, name + ".")
        else:
            yield name
