"""What NVIDIA's driver says of the first card that this process may use: clocks, load, memory."""

import csv
import os
import shutil
import subprocess

_FIELDS = (
    "name", "driver_version", "pstate", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.draw",
    "power.limit", "temperature.gpu", "utilization.gpu", "memory.used", "memory.total",
)  # fmt: skip
_SECONDS = 20  # a driver that does not answer by then is left alone
_FREE_SHARE = 0.9  # of what other programs leave; JAX takes all of it when it starts
MEMORY_FRACTION, _DEFAULT_FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION", 0.75


def query() -> dict[str, str] | None:
    """The fields with their units ("1980 MHz"); None without nvidia-smi, or a card."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    argv = [command, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
    if visible:
        argv.append(f"--id={visible}")
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    rows = list(csv.reader(done.stdout.splitlines(), skipinitialspace=True))
    if done.returncode != 0 or not rows or len(rows[0]) != len(_FIELDS):
        return None
    return dict(zip(_FIELDS, rows[0], strict=True))


def memory_fraction() -> float | None:
    """The share of the card's memory that JAX may take beside other programs.

    None where its own default does no harm, or the user has set one.
    """
    found = query()
    if found is None or MEMORY_FRACTION in os.environ:
        return None
    used, total = (_mebibytes(found[name]) for name in ("memory.used", "memory.total"))
    if used is None or not total:
        return None
    free = _FREE_SHARE * (total - used) / total
    return None if free >= _DEFAULT_FRACTION else round(free, 3)


def _mebibytes(text: str) -> float | None:
    number, _, unit = text.partition(" ")
    return float(number) if unit == "MiB" and number.replace(".", "", 1).isdigit() else None
