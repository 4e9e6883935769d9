"""`esam features CONFIG --out DIR`: a teacher's features of every view, for training without it."""

import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from esam_jax import outputs
from esam_jax.cli import arguments, run_keys
from esam_jax.data import sources
from esam_jax.errors import ConfigError
from esam_jax.machine import compile_cache

_USAGE = "esam features CONFIG --out DIR [--field.name value ...] [--dtype int8] [--json]"


@dataclasses.dataclass(frozen=True)
class Where:
    """Stores what the teacher of CONFIG makes of each view of its data, by the picture's name.

    Of a `sami` config those are `--data.view.crops N` crops of each picture. `esam train CONFIG
    --data.view.features DIR` then reads them, and the teacher does not run. What the folder holds
    already is kept, so that the same command resumes.
    """

    out: Path
    """The folder of the features."""
    dtype: Literal["float16", "bfloat16", "int8"] = "float16"
    """In which they are stored: 2 MB a picture of SAM's, 1 MB in int8 with a scale a channel."""
    part: str = "1/1"
    """2/8 stores the second of eight parts; hosts that write different ones may share DIR."""
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
    outputs.require_folder(where.out, [Path(path) for path in sources.paths(config.data.source)])
    part = _part(where.part)

    compile_cache.enable()
    from esam_jax.train import features  # starts JAX

    found = features.store(config, where.out, dtype=where.dtype, part=part)
    if where.json:
        print(json.dumps(found))
        return 0
    print(f"{where.out}: features of {found['stored']} views, {found['added']} of them new")
    for reason in found["broken"]:
        print(f"esam: left out: {reason}", file=sys.stderr)
    return 0


def _part(text: str) -> tuple[int, int]:
    """(2, 8) of "2/8"."""
    found = re.fullmatch(r"(\d{1,3})/(\d{1,3})", text)
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise ConfigError(f"--part is {text!r}, but must be like 2/8, the second of eight parts")
    return number, count
