"""Command-line arguments -> dataclasses, and the checks that commands make before any work."""

import contextlib
import dataclasses
import difflib
import io
import itertools
import os
import re
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from esam_jax.errors import ConfigError, MissingError

Args = TypeVar("Args")

# Unions of configs keep the kind that the default has; flags have no --no-... twin.
_STYLE = (tyro.conf.AvoidSubcommands, tyro.conf.FlagCreatePairsOff)


def parse(kind: type[Args], argv: Sequence[str], *, prog: str, default: Args | None = None) -> Args:
    """The arguments as a `kind`; ConfigError, in one line, for what does not parse."""
    if default is None:
        _require_known(argv, list(_keys(kind)), prog)
        return _call(kind, argv, prog)
    default = _of_kinds(default, argv)
    _require_known(argv, list(_keys(default)), prog)
    return _call(kind, argv, prog, default=default)


def parse_known(kind: type[Args], argv: Sequence[str], *, prog: str) -> tuple[Args, list[str]]:
    """As `parse`, with the options that are not `kind`'s handed back."""
    return _call(kind, argv, prog, return_unknown_args=True)


def require_writable(folder: Path) -> None:
    """MissingError unless the folder, or the nearest above it, can be written; makes nothing."""
    nearest = folder.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise MissingError(f"{folder} cannot be made: {nearest} is a file; name another folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise MissingError(f"{folder} cannot be written: no permission in {nearest}; name another")


def _call(kind: Any, argv: Sequence[str], prog: str, **options: Any) -> Any:
    """tyro's parser, whose complaints become ConfigErrors; --help prints and leaves."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=list(argv), prog=prog, config=_STYLE, **options)
    except SystemExit as leave:
        if not leave.code:
            raise
        raise ConfigError(f"{_in_one_line(complaint.getvalue())} ({prog} --help)") from None


def _of_kinds(config: Any, argv: Sequence[str]) -> Any:
    """The config with each member of a union that `--PATH.kind NAME` asks for in its place.

    Fields that both members have keep their values; the others get their defaults. An unknown name
    is left to the parser, which lists those that there are.
    """
    words = [word for argument in argv for word in argument.split("=", 1)]
    for option, name in itertools.pairwise(words):
        if option.startswith("--") and option.endswith(".kind"):
            path = option[2:].replace("-", "_").split(".")[:-1]
            config = _with_kind(config, path, name)
    return config


def _with_kind(config: Any, path: list[str], name: str) -> Any:
    field, *rest = path
    value = getattr(config, field, None)
    if not dataclasses.is_dataclass(value):
        return config
    if rest:
        return dataclasses.replace(config, **{field: _with_kind(value, rest, name)})
    for member in typing.get_args(typing.get_type_hints(type(config))[field]):
        if getattr(member, "kind", None) == name != getattr(value, "kind", None):
            shared = {f.name for f in dataclasses.fields(member)} & vars(value).keys() - {"kind"}
            changed = member(**{key: getattr(value, key) for key in shared})
            return dataclasses.replace(config, **{field: changed})
    return config


def _require_known(argv: Sequence[str], known: list[str], prog: str) -> None:
    """tyro suggests too, but in a frame of many lines."""
    for argument in argv:
        option = argument.split("=")[0].replace("_", "-")
        if option.startswith("--") and option[2:] not in (*known, "help"):
            close = difflib.get_close_matches(option[2:], known, n=1, cutoff=0.5)
            hint = f"did you mean --{close[0]}?" if close else f"{prog} --help lists them all"
            raise ConfigError(f"{prog} has no option {option}: {hint}")


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    """Names of the options of a dataclass, or of an instance of nested ones."""
    for field in dataclasses.fields(config):
        name, value = prefix + field.name.replace("_", "-"), getattr(config, field.name, None)
        if dataclasses.is_dataclass(value):
            yield from _keys(value, name + ".")
        else:
            yield name


def _in_one_line(box: str) -> str:
    """tyro's complaint without its frame: the part between the title and the help text."""
    title, *lines = [re.sub("[│╭╮╰╯─]", "", line).strip() for line in box.splitlines()]
    if "Required options" in title:
        # An option stands alone on its line, with what it takes; the lines between describe it.
        # Options that tyro was not told of come after those that are missing; others read them.
        needed = itertools.takewhile(lambda line: "Unrecognized options" not in line, lines)
        alone = [line for line in needed if re.fullmatch(r"--\w[\w.-]*( \S+)?|[A-Z]+", line)]
        return f"missing: {', '.join(alone)}"
    body = " ".join(line for line in lines if not set(line) <= {"-"})
    body = re.split(r"Argument helptext:|For full helptext", body)[0]
    # An error of a config's own check names its field; the prefix would name our class.
    return re.sub(r"^Error parsing (?:RunConfig: )?(?!--)", "", " ".join(body.split()))
