"""The keys of a run as options of the command line: what they change, and the help on them."""

import contextlib
import dataclasses
import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, NoReturn

import tyro

from esam_jax.cli import arguments
from esam_jax.config import EvaluateConfig, RunConfig
from esam_jax.errors import ConfigError

_UNPREFIXED = tyro.conf.arg(name="")


def parse(config: RunConfig, keys: Sequence[str], *, prog: str) -> RunConfig:
    """The config with the keys changed; ConfigError, in one line, for one that does not parse.

    A key below `evaluate` turns the measurement on where the config has none.
    """
    if any(key.startswith("--evaluate.") for key in keys):
        config = _measured(config)
    return arguments.parse(RunConfig, keys, prog=prog, default=config)


def named(keys: Sequence[str]) -> set[str]:
    """The paths in the config that the keys change: "optim.peak_lr" of --optim.peak-lr."""
    options = (key[2:].partition("=")[0] for key in keys if key.startswith("--"))
    return {option.replace("-", "_") for option in options}


def require(
    config: RunConfig, named: Iterable[str], keys: Sequence[str], *, option: str, prog: str
) -> None:
    """ConfigError unless the config with the keys has each of those `named` to `option`."""
    if any(key.startswith("--evaluate.") for key in keys):
        config = _measured(config)
    config, _ = arguments.of_kinds(config, keys, prog)
    for key in named:
        if not key.endswith(".kind"):
            arguments.require_key(key, config, option, prog)


def show(where: type, config: RunConfig, argv: Sequence[str], *, prog: str) -> NoReturn:
    """Prints the help on the options of `where` and on every key of the config, and exits.

    That includes the keys of what the config leaves off. A `--PATH.kind NAME` among the other
    arguments shows the keys of that kind.
    """
    shown = config
    with contextlib.suppress(ConfigError):  # of a task that has nothing to measure
        shown = _measured(config)
    shown, _ = arguments.of_kinds(shown, argv, prog)
    notes = [inspect.getdoc(where) or "", *_notes(shown, config.evaluate is not shown.evaluate)]
    fields = [
        ("where", Annotated[where, _UNPREFIXED]),
        ("run", Annotated[RunConfig, _UNPREFIXED], dataclasses.field(default=shown)),
    ]
    all_of_them = dataclasses.make_dataclass("Options", fields, frozen=True)
    arguments.help_on(all_of_them, prog=prog, about="\n\n".join(notes))


def _notes(shown: RunConfig, evaluate_is_off: bool) -> Iterator[str]:
    """Which of the keys in the help are off, and which others there are."""
    if evaluate_is_off:
        yield (
            "evaluate is off in this config: any of its keys turns it on, with the values shown "
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


def _measured(config: RunConfig) -> RunConfig:
    """The config with a measurement, by default on the data that it trains on."""
    if config.evaluate is not None:
        return config
    return dataclasses.replace(config, evaluate=EvaluateConfig(source=config.data.source))
