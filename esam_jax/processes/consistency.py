"""What all hosts of a run must have in common, compared before anything is compiled or computed."""

import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

import esam_jax
from esam_jax.config import json as config_json
from esam_jax.errors import ConfigError, PeerError
from esam_jax.machine import compiler_options
from esam_jax.processes import coordinator

# A host may see these late on a shared disk; a restart helps.
_MAY_BE_LATE = ("first_step", "finished")
_agreements = itertools.count()  # every host makes the same ones in the same order


def facts(config: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """What must be the same on all hosts before anything is compiled: config, code, packages."""
    package = Path(esam_jax.__file__).parent
    return {
        "config": config,
        "esam_jax": esam_jax.__version__,
        "code": {
            file.relative_to(package).as_posix(): _digest(file.read_bytes())[:12]
            for file in package.rglob("*.py")
        },
        "packages": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")},
        "python": platform.python_version(),
        "compiler": _compiler_flags(os.environ),
        **more,
    }


def agree(about: Mapping[str, Any]) -> None:
    """Returns when every host has the same facts.

    ConfigError on every host otherwise: it names the hosts that differ from most others, and how.
    PeerError when a host does not come, or only sees another step of the run.
    """
    service, me = coordinator.client(), coordinator.state().process_id
    if service is None:
        if jax.process_count() > 1:  # a TPU slice forms automatically
            raise ConfigError(
                f"JAX sees {jax.process_count()} processes, but this one has not met the others: "
                f"give --peers.processes {jax.process_count()}"
            )
        return
    text = json.dumps(about, sort_keys=True)
    folder = f"esam_jax/agreement_{next(_agreements)}"
    service.key_value_set(f"{folder}/{me}", text)
    mine = f"{_digest(text.encode())} {socket.gethostname()}"
    brought = [line.split(" ", 1) for line in coordinator.gather("the comparison", mine)]
    digests = {number: digest for number, (digest, _) in enumerate(brought)}
    different, usual = outliers(digests)
    if not different:
        return

    def read(number: int) -> Any:
        return json.loads(service.key_value_try_get(f"{folder}/{number}"))

    unlike = {number: differences(read(number), read(usual)) for number in different[:4]}
    lines = [
        f"host {number} ({brought[number][1]}) differs from host {usual} in {'; '.join(found)}"
        for number, found in unlike.items()
    ]
    more = f"; and {len(different) - 4} more hosts" if len(different) > 4 else ""
    text = f"{'; '.join(lines)}{more}"
    if all(line.startswith(_MAY_BE_LATE) for found in unlike.values() for line in found):
        raise PeerError(f"{text}: start them again; if that does not help, share one --workdir")
    raise ConfigError(f"{text}: start every host with the same command, code, packages and data")


def outliers(digests: Mapping[int, str]) -> tuple[list[int], int]:
    """The hosts that differ from most, and the first of those; among equals host 0 counts."""
    counts = Counter(digests.values())  # in order of first appearance
    usual, _ = counts.most_common(1)[0]
    different = [number for number, digest in digests.items() if digest != usual]
    return different, next(number for number, digest in digests.items() if digest == usual)


def differences(here: Any, there: Any) -> list[str]:
    """Every value in which two trees of JSON differ, as "config.seed: 1, not 0"."""
    return [
        f"{path}: {json.dumps(a)}, not {json.dumps(b)}"
        for path, a, b in config_json.differences(here, there)
    ]


def agreeing(step_fn: Callable[..., Any]) -> Callable[..., Any]:
    """`step_fn`, whose program the hosts compare before it first runs.

    Different programs wait for each other in collectives that never meet. The jitted function
    keeps what it has traced and lowered, so that the comparison costs no second time.
    """
    if coordinator.state().num_processes == 1:
        return step_fn
    first = iter((True,))

    def step(*args: Any) -> Any:
        if next(first, False):
            # Without source locations, which may differ between installations.
            text = step_fn.lower(*args).as_text()  # pyright: ignore[reportFunctionMemberAccess]
            agree({"program": _digest(text.encode())})
        return step_fn(*args)

    return step


def _compiler_flags(environment: Mapping[str, str]) -> list[str]:
    """Flags that change what a program becomes; where it is dumped may differ by host."""
    flags = [
        flag for name in compiler_options.VARIABLES for flag in environment.get(name, "").split()
    ]
    return sorted(flag for flag in flags if not flag.startswith("--xla_dump"))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
