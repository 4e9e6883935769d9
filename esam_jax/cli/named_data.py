"""The data that `esam data` is about: a path or a config, with the keys of its source."""

import dataclasses
import inspect
import itertools
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn, TypeVar

import tyro

from esam_jax import configs
from esam_jax.cli import arguments, run_keys
from esam_jax.config import DataConfig, RunConfig, SourceConfig
from esam_jax.config.rules import Config
from esam_jax.data import parallel, sources
from esam_jax.errors import ConfigError

Args = TypeVar("Args")
_UNPREFIXED = tyro.conf.arg(name="")
_KIND = "--data.source.kind"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Data(Config):
    source: SourceConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Path(Config):
    data: _Data


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run(Config):
    data: DataConfig


@dataclasses.dataclass(frozen=True)
class Named:
    """What the first argument names; `run` is the config with its keys, None for a path."""

    title: str
    source: SourceConfig
    run: RunConfig | None = None


def parse(kind: type[Args], argv: Sequence[str], *, prog: str) -> tuple[Args, Named]:
    """The options of a command, and its data: `PROG CONFIG|PATH [--data.source.name value ...]`.

    A config takes all keys that `esam train` takes. ConfigError for what is neither.
    """
    usage = f"{prog} PATH|CONFIG [--data.source.name value ...]"
    if not argv:
        raise ConfigError(f"no data is named: write {usage}")
    name, *rest = argv
    if name in ("-h", "--help"):
        _help(kind, _Path(data=_Data(source=sources.named("image_folder"))), prog, usage)
    if name.startswith("-"):
        raise ConfigError(f"the data comes first: write {usage}")
    if name in configs.names() or name.endswith(".py"):
        return _of_config(kind, name, rest, prog, usage)
    holder = _Path(data=_Data(source=_source(name, rest)))
    if "-h" in rest or "--help" in rest:
        _help(kind, holder, f"{prog} {name}", usage)
    args, keys = arguments.parse_known(kind, rest, prog=prog)
    found = arguments.parse(_Path, keys, prog=prog, default=holder)
    return args, Named(name, found.data.source)


def workers(given: int | None) -> int:
    """How many processes work; ConfigError for less than one."""
    if given is not None and given < 1:
        raise ConfigError(f"--workers is {given}, but must be at least 1")
    return parallel.available() if given is None else given


def _of_config(
    kind: type[Args], name: str, rest: list[str], prog: str, usage: str
) -> tuple[Args, Named]:
    _, config, _ = arguments.config_first(kind, [name], prog=prog, usage=usage)
    prog = f"{prog} {name}"
    if "-h" in rest or "--help" in rest:
        shown, _ = arguments.of_kinds(_Run(data=config.data), rest, prog)
        _help(kind, shown, prog, f"{usage}; esam train {name} --help lists all keys of the config")
    args, keys = arguments.parse_known(kind, rest, prog=prog)
    config = run_keys.parse(config, keys, prog=prog)
    if config.defaults == "own_data":
        from esam_jax.tasks import own_data  # JAX, which nothing else here needs

        config = own_data.fitted(config, run_keys.named(keys))
    return args, Named(name, config.data.source, config)


def _source(path: str, rest: Sequence[str]) -> SourceConfig:
    """The source that a path means, of the kind that an option names, if one does."""
    given = [after for option, after in itertools.pairwise([*rest, ""]) if option == _KIND]
    given += [each.partition("=")[2] for each in rest if each.startswith(f"{_KIND}=")]
    if not given:
        return sources.detect(path)
    if given[-1] not in sources.kinds():
        known = ", ".join(sources.kinds())
        raise ConfigError(f"{_KIND} is {given[-1]!r}, but must be one of {known}")
    found = sources.named(given[-1], path)
    if not hasattr(found, "path") and path != given[-1]:
        raise ConfigError(
            f"{path} is named, but {_KIND} is {given[-1]!r}, which reads no path of this kind: "
            f"write {given[-1]} in its place, or name another kind"
        )
    return found


def _help(kind: type, shown: _Path | _Run, prog: str, usage: str) -> NoReturn:
    about = f"{inspect.getdoc(kind)}\n\nusage: {usage}"
    lines: dict[tuple[str, ...], list[str]] = {}
    for path, other, keys in arguments.other_kinds(shown):
        lines.setdefault((path, *keys), []).append(other)
    kinds = [
        f"--{path}.kind {'|'.join(names)}: "
        + (", ".join(f"--{path}.{key}".replace("_", "-") for key in keys) or "none")
        for (path, *keys), names in lines.items()
    ]
    about += "\n\n" + "\n".join(["Other kinds have further keys:", *kinds])
    fields: list[Any] = [
        ("where", Annotated[kind, _UNPREFIXED]),
        ("path", Annotated[type(shown), _UNPREFIXED], dataclasses.field(default=shown)),
    ]
    options = dataclasses.make_dataclass("Options", fields, frozen=True)
    arguments.help_on(options, prog=prog, about=about)
