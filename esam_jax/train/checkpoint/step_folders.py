"""The folder of checkpoints as files: which steps are whole, verified or best, and what may go.

A step is whole once Orbax has renamed it to its number, with its commit markers inside. It is
verified once it was read back: `<step>/verified.json` lies in it, and leaves with it. Whatever
has a longer name than a number is no step: unfinished, set aside, or about to be deleted.
"""

import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from esam_jax import files
from esam_jax.config import SaveConfig

CHECKPOINTS_FOLDER = "checkpoints"
STATE = "state"
CHECKSUMS = "checksums"
VERIFIED_FILE = "verified.json"
SCORES_FILE = "scores.json"

# Orbax writes both on every file system. Releases before 0.12.3 wrote no commit marker at all, in
# the step or in its items, and only then the rename alone tells that a step is whole.
_METADATA_FILE = "_CHECKPOINT_METADATA"
_COMMIT_FILE = "commit_success.txt"
_UNFINISHED = ".orbax-checkpoint-tmp"
_DELETED = ".deleted"


def steps(folder: Path) -> list[int]:
    """The steps that are whole, in order; [] where there is no folder."""
    return [step for step in _numbers(folder) if _is_whole(folder / str(step))]


def unmarked(folder: Path) -> list[int]:
    """The steps whose folder has its final name but has lost a commit marker, in order."""
    return [step for step in _numbers(folder) if not _is_whole(folder / str(step))]


def _numbers(folder: Path) -> list[int]:
    return sorted(int(name) for name in _folders(folder) if name.isdecimal())


def _folders(folder: Path) -> list[str]:
    """Names of the folders in it; DiskError where they cannot be told."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as fault:  # no steps would mean a start from the beginning
        raise files.read_error(folder, fault, "make it readable") from fault


def _is_whole(path: Path) -> bool:
    marked, markers_in_use = path / _COMMIT_FILE, path / STATE / _COMMIT_FILE
    return (path / _METADATA_FILE).exists() and (marked.exists() or not markers_in_use.exists())


def verified(folder: Path) -> list[int]:
    """The whole steps that were read back and found as they should be, in order."""
    return [step for step in steps(folder) if (folder / str(step) / VERIFIED_FILE).exists()]


def mark_verified(folder: Path, step: int) -> None:
    """Says of a step that it was read back and found as it should be."""
    files.write(folder / str(step) / VERIFIED_FILE, json.dumps({"step": step}) + "\n")


def surplus(
    whole: Collection[int], good: Collection[int], scores: Mapping[int, float], save: SaveConfig
) -> list[int]:
    """The steps that may be deleted: older than the newest `save.keep` of the verified (`good`).

    The verified one with the best score stays too, the newest of equals; and the newest that lies
    at a multiple of `save.every_steps`, which `guard.spike` goes back to when runs that were told
    to stop have left newer ones.
    """
    keep = save.keep
    if len(good) < keep:
        return []
    oldest = sorted(good)[-keep]
    scored = [step for step in good if step in scores]
    best = max(scored, key=lambda step: (scores[step], step), default=None)
    regular = max((step for step in good if step % save.every_steps == 0), default=None)
    return [step for step in sorted(whole) if step < oldest and step not in (best, regular)]


def remove(folder: Path, step: int) -> None:
    """Deletes a step; killed half way, it is no step any more."""
    gone = _free_name(folder, f"{step}{_DELETED}")
    (folder / str(step)).rename(gone)
    shutil.rmtree(gone)


def set_aside(folder: Path, step: int, why: str) -> Path:
    """The new place of a step that must not be used: a name with `why`, overwriting nothing."""
    return (folder / str(step)).rename(_free_name(folder, f"{step}.{why}"))


def tidy(folder: Path, step: int | None = None) -> None:
    """Deletes what a killed or failed save or deletion has left (default: of every step)."""
    for name in _folders(folder):
        number, mark, _ = name.partition(_UNFINISHED if _UNFINISHED in name else _DELETED)
        if mark and (step is None or number == str(step)):
            shutil.rmtree(folder / name, ignore_errors=True)


def free_bytes(folder: Path) -> int:
    """Room on the disk of a folder for this user."""
    return shutil.disk_usage(folder).free


def _free_name(folder: Path, name: str) -> Path:
    path, number = folder / name, 1
    while path.exists():
        number += 1
        path = folder / f"{name}.{number}"
    return path


def read_scores(folder: Path) -> dict[int, dict[str, float]]:
    """What the evaluation gave, by step; {} where nothing was measured."""
    try:
        found = json.loads((folder / SCORES_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return {int(step): values for step, values in found.items()}


def write_scores(folder: Path, scores: Mapping[int, Mapping[str, Any]]) -> None:
    """Keeps what the evaluation gave, by step."""
    files.write(folder / SCORES_FILE, json.dumps(scores, indent=2) + "\n")
