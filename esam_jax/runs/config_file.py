"""What a run may not change when it goes on: the values of its config, and the shapes of its state.

`<workdir>/config.json` is the whole resolved config of the run so far.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from esam_jax import files, sharding
from esam_jax.config import RunConfig
from esam_jax.config import json as config_json
from esam_jax.errors import CheckpointError, DiskError

CONFIG_FILE = "config.json"

Kind = tuple[tuple[int, ...], str]  # shape and type of an array


def require_same(cfg: RunConfig, workdir: Path) -> None:
    """CheckpointError, with one line for each value, unless `cfg` may resume the run in `workdir`.

    Also when its config is missing or damaged; DiskError on an error of the disk.
    """
    if found := changes(cfg, workdir):
        raise CheckpointError(
            f"{workdir} belongs to another run: {'; '.join(found)}. Give these values, or another "
            "workdir"
        )


def changes(cfg: RunConfig, workdir: Path) -> list[str]:
    """Each value that matters and has changed, as "optim.peak_lr was 0.1, is 0.2"."""
    file = workdir / CONFIG_FILE
    try:
        stored = config_json.from_json(RunConfig, json.loads(file.read_text()), "the stored config")
    except (FileNotFoundError, ValueError, RecursionError) as fault:
        raise CheckpointError(
            f"{file} is missing or damaged ({fault}), so the checkpoints beside it cannot be "
            "trusted: name another workdir"
        ) from fault
    except OSError as fault:
        raise DiskError(f"{file} cannot be read ({fault.strerror}): start again") from fault
    found = config_json.differences(config_json.to_json(stored), config_json.to_json(cfg))
    return [
        f"{path} was {json.dumps(old)}, is {json.dumps(new)}"
        for path, old, new in found
        if not config_json.may_differ(RunConfig, path)
    ]


def store(cfg: RunConfig, workdir: Path) -> None:
    """Writes config.json, unless it says the same already."""
    file, text = workdir / CONFIG_FILE, json.dumps(config_json.to_json(cfg), indent=2) + "\n"
    if not file.exists() or file.read_text() != text:
        files.write(file, text)


def kinds(tree: Any) -> dict[str, Kind]:
    """Shape and type of every leaf by its path; the leaves may be abstract."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        sharding.name(path): (tuple(leaf.shape), np.dtype(leaf.dtype).name) for path, leaf in leaves
    }


def tree_differences(saved: Mapping[str, Kind], wanted: Mapping[str, Kind]) -> list[str]:
    """Every leaf that is not in both alike, as "params/x was float32 (2, 3), is float32 (2, 4)"."""
    paths = [*wanted, *(path for path in saved if path not in wanted)]
    return [
        f"{path} was {_words(saved.get(path))}, is {_words(wanted.get(path))}"
        for path in paths
        if saved.get(path) != wanted.get(path)
    ]


def _words(kind: Kind | None) -> str:
    return "absent" if kind is None else f"{kind[1]} {kind[0]}"
