"""The folder of checkpoints as files: which steps are committed, and what is not a step.

A step is committed once Orbax has renamed it to its number, with its commit markers inside. A
longer name than a number belongs to no step: unfinished, quarantined, or about to be deleted.
"""

import os
import shutil
from pathlib import Path

from esam_jax import files

CHECKPOINTS_FOLDER = "checkpoints"
STATE = "state"
CHECKSUMS = "checksums"

# Orbax writes both on every file system. Releases before 0.12.3 wrote no commit marker at all, in
# the step or in its items; there the rename alone shows that a step is committed.
_METADATA_FILE = "_CHECKPOINT_METADATA"
_COMMIT_FILE = "commit_success.txt"
UNFINISHED = ".orbax-checkpoint-tmp"
_DELETED = ".deleted"


def steps(folder: Path) -> list[int]:
    """The committed steps, in order; [] where there is no folder."""
    return [step for step in _numbers(folder) if _is_committed(folder / str(step))]


def unmarked(folder: Path) -> list[int]:
    """The steps whose folder has its final name but has lost a commit marker, in order."""
    return [step for step in _numbers(folder) if not _is_committed(folder / str(step))]


def _numbers(folder: Path) -> list[int]:
    return sorted(int(name) for name in _folders(folder) if name.isdecimal())


def _folders(folder: Path) -> list[str]:
    """Names of the folders in it; DiskError where the disk does not list them."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as fault:  # no steps would mean a start from the beginning
        raise files.read_error(folder, fault, "make it readable") from fault


def _is_committed(path: Path) -> bool:
    marked, markers_in_use = path / _COMMIT_FILE, path / STATE / _COMMIT_FILE
    return (path / _METADATA_FILE).exists() and (marked.exists() or not markers_in_use.exists())


def remove(folder: Path, step: int) -> None:
    """Deletes a step; killed half way, what is left is no step."""
    gone = _free_name(folder, f"{step}{_DELETED}")
    (folder / str(step)).rename(gone)
    shutil.rmtree(gone)


def quarantine(folder: Path, step: int, why: str) -> Path:
    """The new path of a step that must not be used: a name with `why`; overwrites nothing."""
    return (folder / str(step)).rename(_free_name(folder, f"{step}.{why}"))


def tidy(folder: Path) -> None:
    """Deletes what killed or failed saves and deletions have left."""
    for name in _folders(folder):
        if UNFINISHED in name or _DELETED in name:
            shutil.rmtree(folder / name, ignore_errors=True)


def free_bytes(folder: Path) -> int:
    """Free space for this user on the disk of a folder."""
    return shutil.disk_usage(folder).free


def _free_name(folder: Path, name: str) -> Path:
    path, number = folder / name, 1
    while path.exists():
        number += 1
        path = folder / f"{name}.{number}"
    return path
