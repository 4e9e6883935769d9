"""`esam train CONFIG --workdir DIR [--field.name value ...]`: any task, from its config file."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import configs
from esam_jax.cli import arguments, compile_cache
from esam_jax.config import EvaluateConfig, RunConfig
from esam_jax.errors import ConfigError, EsamError

_USAGE = "esam train CONFIG --workdir DIR [--field.name value ...] [--json]"


@dataclasses.dataclass(frozen=True)
class Where:
    """Trains what CONFIG says: a name in `configs/`, or a .py file of your own.

    `esam train CONFIG --help` lists every key of that config, with its value.
    """

    workdir: Path
    """The run's folder; a run that lies there already is continued."""
    json: bool = False
    """Print the last value of every metric as JSON."""


def main(argv: Sequence[str]) -> int:
    """Trains to the end; ConfigError for an unknown config or key, before JAX starts."""
    if not argv:
        raise ConfigError(f"no config is named: write {_USAGE}")
    if argv[0].startswith("-"):
        arguments.parse(Where, argv, prog="esam train CONFIG")
        raise ConfigError(f"the config comes first: write {_USAGE}")
    name, *rest = argv
    config, prog = _load(name), f"esam train {name}"
    if "-h" in rest or "--help" in rest:
        arguments.parse(RunConfig, ["--help"], prog=prog, default=config)
    where, keys = arguments.parse_known(Where, rest, prog=prog)
    if config.evaluate is None and any(key.startswith("--evaluate.") for key in keys):
        # The keys below it need something to change.
        measured = EvaluateConfig(source=config.data.source)
        config = dataclasses.replace(config, evaluate=measured)
    config = arguments.parse(RunConfig, keys, prog=prog, default=config)
    arguments.require_writable(where.workdir)

    if _has_peers(os.environ):
        _join_peers(os.environ)
    compile_cache.enable()
    from esam_jax.train import loop  # starts JAX, which a typing error should not have to wait for

    metrics = loop.run(config, where.workdir)
    if where.json:
        print(json.dumps(metrics))
    return 0


def _has_peers(environment: Mapping[str, str]) -> bool:
    """Whether this process is one of several, by what Slurm, a TPU pod or the user set."""
    # SLURM_NTASKS is also there in a batch script that starts this command without srun.
    return (
        int(environment.get("SLURM_STEP_NUM_TASKS", 1)) > 1
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or "JAX_COORDINATOR_ADDRESS" in environment
    )


def _join_peers(environment: Mapping[str, str]) -> None:
    """Meets the other processes, before JAX starts; it finds out about Slurm and TPU pods itself.

    Elsewhere JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say who they are.
    """
    import jax

    count, number = (environment.get(f"JAX_{name}") for name in ("NUM_PROCESSES", "PROCESS_ID"))
    try:
        jax.distributed.initialize(
            num_processes=None if count is None else int(count),
            process_id=None if number is None else int(number),
        )
    except ValueError as error:
        raise ConfigError(
            f"the other processes cannot be met ({error}): set JAX_COORDINATOR_ADDRESS, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from error


def _load(name: str) -> RunConfig:
    try:
        return configs.load(name)
    except EsamError:
        raise
    except Exception as error:  # whatever the user's own file raises
        raise ConfigError(f"{name} cannot be run: {type(error).__name__}: {error}") from error
