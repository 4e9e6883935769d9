"""A small disk of memory for a run's checkpoints, which can be filled without harm to others."""

import contextlib
import subprocess

SIZE = "24m"


@contextlib.contextmanager
def small(folder):
    """Mounts one on `folder`; returns None, or why there is none."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "chaos", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        reason = done.stderr.strip() if done.returncode else None
    except OSError as fault:
        reason = str(fault)
    try:
        yield reason
    finally:
        if reason is None:
            # A process that was just killed may still hold it for a moment.
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
