"""`python -m esam_jax.card.section_process NAME SECONDS`: one section, in a process of its own.

Reads the setting as JSON from stdin and writes a line of JSON to stdout for each row, and one at
the end. Whatever else is printed goes to stderr.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from esam_jax.card import setting
from esam_jax.card.sections import SECTIONS
from esam_jax.card.setting import Row
from esam_jax.errors import EsamError


def main(name: str, seconds: float) -> int:
    """Exit code 0 when the section said how it ended."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no row

    def write(line: dict[str, Any]) -> None:
        out.write(json.dumps(plain(line)) + "\n")
        out.flush()

    sizes = setting.from_json(json.load(sys.stdin))
    ended = run(SECTIONS[name].load()(sizes), seconds, lambda row: write({"row": row}))
    write({"end": {**ended, **about()}})
    return 0


def run(
    rows: Iterator[Row],
    seconds: float,
    write: Callable[[Row], None],
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Writes the rows until they or the seconds end; how it ended.

    A row is never interrupted: a section that hangs is ended from outside.
    """
    begin = clock()
    try:
        for row in rows:
            if row:
                write(row)
            elif clock() - begin > seconds:
                return {"state": "stopped", "error": f"its {seconds:.0f} seconds were over"}
    except EsamError as error:
        return {"state": "failed", "error": str(error)}
    return {"state": "done", "error": None}


def plain(value: Any) -> Any:
    """The value without numbers that JSON does not have, which become null."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def about() -> dict[str, Any]:
    """The device of this process, and the memory that it took."""
    import jax

    from esam_jax.bench import conditions

    return {"device": jax.devices()[0].device_kind, "peak_bytes": conditions.peak_memory()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
