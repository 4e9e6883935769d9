"""A command on so many pretend devices."""

import os
import subprocess
import sys
from pathlib import Path


def command(devices: int, *argv: str) -> str:
    """What `esam` prints on stdout, in a process of its own."""
    code = (
        "import sys, jax; from esam_jax import cli; "
        f"assert len(jax.local_devices()) == {devices}; sys.exit(cli.main(sys.argv[1:]))"
    )
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-c", code, *argv],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder."""
    return {
        file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }
