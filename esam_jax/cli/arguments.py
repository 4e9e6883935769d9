"""Command-line arguments -> dataclasses, and the checks that commands make before any work."""

import contextlib
import dataclasses
import difflib
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from esam_jax.errors import ConfigError, MissingError

Args = TypeVar("Args")

# Unions of configs keep the kind that the default has; flags have no --no-... twin.
_STYLE = (tyro.conf.AvoidSubcommands, tyro.conf.FlagCreatePairsOff)


def parse(kind: type[Args], argv: Sequence[str], *, prog: str, default: Args | None = None) -> Args:
    """The arguments as a `kind`; ConfigError in one line for what does not parse."""
    return _call(kind, argv, prog, default, False)


def parse_known(kind: type[Args], argv: Sequence[str], *, prog: str) -> tuple[Args, list[str]]:
    """As `parse`, with what is left over instead of an error about it."""
    return _call(kind, argv, prog, None, True)


def require_known(argv: Sequence[str], config: Any) -> None:
    """ConfigError with a suggestion for the first `--key` that is no field of the config."""
    known = list(_keys(config))
    for argument in argv:
        key = argument.split("=")[0].replace("_", "-")
        if key.startswith("--") and key[2:] not in known:
            close = difflib.get_close_matches(key[2:], known, n=1, cutoff=0.5)
            hint = f"did you mean --{close[0]}?" if close else "--help lists them all"
            raise ConfigError(f"this config has no key {key}: {hint}")


def require_writable(folder: Path) -> None:
    """MissingError unless the folder, or the nearest above it, can be written; makes nothing."""
    nearest = folder.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise MissingError(f"{folder} cannot be made: {nearest} is a file; name another folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise MissingError(f"{folder} cannot be written: no permission in {nearest}; name another")


def _call(
    kind: type[Args], argv: Sequence[str], prog: str, default: Args | None, unknown: bool
) -> Any:
    complaint = io.StringIO()
    options = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                kind,
                args=list(argv),
                prog=prog,
                config=_STYLE,
                return_unknown_args=unknown,
                **options,
            )
    except SystemExit as leave:
        if not leave.code:
            raise
        raise ConfigError(f"{_in_one_line(complaint.getvalue())} ({prog} --help)") from None


def _in_one_line(box: str) -> str:
    """tyro's complaint without its frame: the part between the title and the help text."""
    lines = [line.strip(" \t│╭╮╰╯─") for line in box.splitlines()]
    body = " ".join(line for line in lines[1:] if line and not set(line) <= {"-"})
    body = re.split(r"Argument helptext:|For full helptext", body)[0]
    return " ".join(body.split())


def _keys(config: Any, prefix: str = "") -> Any:
    for field in dataclasses.fields(config):
        name, value = prefix + field.name.replace("_", "-"), getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _keys(value, name + ".")
        else:
            yield name
