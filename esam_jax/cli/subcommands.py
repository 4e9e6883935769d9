"""Commands that are chosen among several of one name: `esam data check`, `esam evaluate edges`."""

import importlib
from collections.abc import Mapping, Sequence

from esam_jax.errors import ConfigError


def run(
    command: str,
    known: Mapping[str, str],
    argv: Sequence[str],
    *,
    called: str = "command",
    arguments: str = "...",
) -> int:
    """Runs `esam_jax.cli.COMMAND_NAME` of the `known` name that comes first; --help lists them.

    ConfigError where none of them comes first. `called` is what messages call one of them, and
    `arguments` what the usage shows behind it.
    """
    usage = f"esam {command} {'|'.join(known)}"
    complete = usage if arguments == "..." else f"{usage} {arguments}"
    if not argv:
        raise ConfigError(f"no {called} is named: write {complete}")
    first, rest = argv[0], argv[1:]
    if first in ("-h", "--help"):
        print(f"usage: {usage} {arguments}   (esam {command} {called.upper()} --help says more)\n")
        print("\n".join(f"  {name:<12}{about}" for name, about in known.items()))
        return 0
    if first.startswith("-"):
        raise ConfigError(f"the {called} comes first: write {complete}")
    if first not in known:
        raise ConfigError(f"the {called} is {first!r}, but must be one of {', '.join(known)}")
    return importlib.import_module(f"esam_jax.cli.{command}_{first}").main(rest)
