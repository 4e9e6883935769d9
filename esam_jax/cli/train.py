"""`esam train CONFIG --workdir DIR [--field.name value ...]`: any task, from its config file."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from esam_jax import files
from esam_jax.cli import arguments, run_keys
from esam_jax.config import PeersConfig, RunConfig
from esam_jax.errors import ConfigError
from esam_jax.machine import compile_cache

_USAGE = (
    "esam train CONFIG --workdir DIR [--field.name value ...] [--resume-with ...] [--preflight] "
    "[--json]"
)


@dataclasses.dataclass(frozen=True)
class Where:
    """Trains what CONFIG says: a name in `configs/`, or a .py file of your own.

    `esam train CONFIG --help` lists every key of that config, with its value.
    """

    workdir: Path
    """The run's folder; a run that lies there already is continued."""
    json: bool = False
    """Print the last value of every metric as JSON."""
    resume_with: tuple[str, ...] = ()
    """Change the run in `workdir` on purpose: steps=20000 optim.peak-lr=1e-4, for example."""
    preflight: bool = False
    """Try out devices, links, disk, data and one update, show a table, and train nothing."""
    peers: PeersConfig = PeersConfig()  # noqa: RUF009  it is frozen
    """The processes of this run, on one host or many."""


def main(argv: Sequence[str]) -> int:
    """Trains to the end; ConfigError for an unknown config or key, before JAX starts."""
    name, config, rest = arguments.config_first(Where, argv, prog="esam train", usage=_USAGE)
    prog = f"esam train {name}"
    if "-h" in rest or "--help" in rest:
        run_keys.show(Where, config, rest, prog=prog)
    where, keys = arguments.parse_known(Where, rest, prog=prog)
    changed = dict(_key_and_value(each) for each in where.resume_with)
    keys += _options(changed)
    run_keys.require(config, changed, keys, option="--resume-with", prog=prog)
    config = run_keys.parse(config, keys, prog=prog)
    arguments.require_writable(where.workdir)

    compile_cache.enable()
    from esam_jax.processes import join  # JAX, which a typing error need not wait for

    with join.joined(where.peers):
        if config.defaults == "own_data":
            from esam_jax.runs import config_file
            from esam_jax.tasks import own_data
            from esam_jax.train.checkpoint import manager

            # What was stopped before its first save starts again, maybe with other pictures.
            begun = manager.newest(where.workdir) > 0
            before = config_file.stored(where.workdir) if begun else None
            config = own_data.fitted(config, run_keys.named(keys), before)
        resume_with = [key.replace("-", "_") for key in changed]
        if where.preflight:
            return _preflight(config, where, resume_with)
        from esam_jax.train import loop  # libraries that must not start JAX before its peers met

        metrics = loop.run(config, where.workdir, resume_with=resume_with)
        if config.defaults == "own_data":
            _report(config, where.workdir)
    if where.json:
        print(json.dumps(metrics))
    return 0


def _report(config: RunConfig, run: Path) -> None:
    """Before and after, on the pictures held out: a page, of one process of several."""
    import jax

    from esam_jax.predict import load
    from esam_jax.report import comparison, page, summary

    if jax.process_index() or config.evaluate is None:
        return
    start = config.task.init_from
    assert start is not None  # fine-tuning has one
    found = comparison.write(run, lambda: load(start), lambda: load(run), config.evaluate)
    text = page.render(summary.summary(run), summary.curves(run), comparison.section(run))
    files.write(run / "report.html", text)
    print(f"esam: {comparison.in_words(found)}; look at {run / 'report.html'}", file=sys.stderr)


def _preflight(config: RunConfig, where: Where, resume_with: list[str]) -> int:
    """Prints the table, of one process of several; ConfigError with what is wrong."""
    import jax

    from esam_jax.train import preflight

    checks = preflight.run(
        config, where.workdir, devices=where.peers.devices, resume_with=resume_with
    )
    if jax.process_index() == 0:
        found = [dataclasses.asdict(each) for each in checks]
        print(json.dumps(found) if where.json else preflight.table(checks), flush=True)
    preflight.require(checks)
    return 0


def _options(changed: Mapping[str, str]) -> list[str]:
    """As on the command line, where a switch is on by its name alone and off without it."""
    switches = {"True": [""], "False": []}
    return [
        f"--{key}{rest}"
        for key, value in changed.items()
        for rest in switches.get(value, [f"={value}"])
    ]


def _key_and_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ConfigError(f"--resume-with is {text!r}, but takes KEY=VALUE, such as steps=20000")
    return key, value
