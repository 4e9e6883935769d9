"""`esam features CONFIG --out DIR`: a teacher's features of every picture, for distillation."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from esam_jax import outputs
from esam_jax.cli import arguments, run_keys
from esam_jax.machine import compile_cache

_USAGE = "esam features CONFIG --out DIR [--field.name value ...] [--dtype bfloat16] [--json]"


@dataclasses.dataclass(frozen=True)
class Where:
    """Stores what the teacher of CONFIG makes of each picture of its data, by the picture's name.

    `esam train CONFIG --data.view.features DIR` then reads them, and the teacher does not run. What
    the folder holds already is kept, so that the same command resumes.
    """

    out: Path
    """The folder of the features."""
    dtype: Literal["float16", "bfloat16"] = "float16"
    """In which they are stored: 2 MB a picture of SAM's."""
    json: bool = False
    """Print the counts as JSON."""


def main(argv: Sequence[str]) -> int:
    """Stores them; ConfigError for an unknown config or key, before JAX starts."""
    name, config, rest = arguments.config_first(Where, argv, prog="esam features", usage=_USAGE)
    prog = f"esam features {name}"
    if "-h" in rest or "--help" in rest:
        run_keys.show(Where, config, rest, prog=prog)
    where, keys = arguments.parse_known(Where, rest, prog=prog)
    config = run_keys.parse(config, keys, prog=prog)
    arguments.require_writable(where.out)
    source = getattr(config.data.source, "path", None)
    outputs.require_folder(where.out, [] if source is None else [Path(source)])

    compile_cache.enable()
    from esam_jax.train import features  # starts JAX

    found = features.store(config, where.out, dtype=where.dtype)
    if where.json:
        print(json.dumps(found))
        return 0
    print(f"{where.out}: features of {found['stored']} pictures, {found['added']} of them new")
    for reason in found["broken"]:
        print(f"esam: left out: {reason}", file=sys.stderr)
    return 0
