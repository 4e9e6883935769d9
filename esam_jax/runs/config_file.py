"""What a run may not change when it goes on: the values of its config, and the shapes of its state.

`<workdir>/config.json` is the whole resolved config of the run so far.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from esam_jax import files, sharding
from esam_jax.config import RunConfig
from esam_jax.errors import CheckpointError, DiskError

CONFIG_FILE = "config.json"

# What a resumed run may change: how fast, how often and where, but not which numbers come out. A
# path is allowed because a mount may move; whether the same files lie there cannot be told.
# Another mesh, accumulation or attention kernel changes the order of sums: that is float rounding.
MAY_DIFFER = (
    "name",
    "log_every_steps",
    "save",
    "save_every_steps",  # what `save.every_steps` and `save.keep` were called at first
    "keep_checkpoints",
    "guard.max_skipped",
    "guard.max_rollbacks",
    "guard.checksum_every_steps",
    "guard.hang_seconds",
    "profile",
    "trackers",
    "data.source.path",
    "data.threads",
    "data.prefetch_batches",
    "data.max_broken_share",
    "compute.remat",
    "compute.attention",
    "mesh",
    "accumulate",
    "task.init_from",
    "task.decoder_from",
    "task.teacher.weights",
    "task.teacher.placement",
    "evaluate",
)

Kind = tuple[tuple[int, ...], str]  # shape and type of an array


def to_json(cfg: RunConfig) -> dict[str, Any]:
    """The config as plain JSON values."""
    return _plain(dataclasses.asdict(cfg))


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def require_same(cfg: RunConfig, workdir: Path) -> None:
    """CheckpointError, with one line for each value, unless `cfg` may resume the run in `workdir`.

    Also when its config is missing or damaged; DiskError on an error of the disk.
    """
    file = workdir / CONFIG_FILE
    try:
        saved = json.loads(file.read_text())
    except (FileNotFoundError, ValueError) as fault:
        raise CheckpointError(
            f"{file} is missing or damaged ({fault}), so the checkpoints beside it cannot be "
            "trusted: name another workdir"
        ) from fault
    except OSError as fault:
        raise DiskError(f"{file} cannot be read ({fault.strerror}): start again") from fault
    if found := differences(_filled(saved, cfg), to_json(cfg)):
        raise CheckpointError(
            f"{workdir} belongs to another run: {'; '.join(found)}. Give these values, or another "
            "workdir"
        )


def store(cfg: RunConfig, workdir: Path) -> None:
    """Writes config.json, unless it says the same already."""
    file, text = workdir / CONFIG_FILE, json.dumps(to_json(cfg), indent=2) + "\n"
    if not file.exists() or file.read_text() != text:
        files.write(file, text)


def differences(saved: Any, current: Any, path: str = "") -> list[str]:
    """What a resumed run may not change, as "optim.peak_lr was 0.1, is 0.2", one for each value."""
    if path in MAY_DIFFER or saved == current:
        return []
    if isinstance(saved, dict) and isinstance(current, dict):
        keys = [*current, *(key for key in saved if key not in current)]
        pairs = [(f"{path}.{key}".lstrip("."), saved.get(key), current.get(key)) for key in keys]
        return [line for key, old, new in pairs for line in differences(old, new, key)]
    return [f"{path} was {json.dumps(saved)}, is {json.dumps(current)}"]


def _filled(saved: Any, cfg: Any) -> Any:
    """What an earlier release saved, with the defaults of the fields that it did not have."""
    if not (dataclasses.is_dataclass(cfg) and isinstance(saved, dict)):
        return saved
    filled = dict(saved)
    for field in dataclasses.fields(cfg):
        if field.name in saved:
            filled[field.name] = _filled(saved[field.name], getattr(cfg, field.name))
        elif field.default is not dataclasses.MISSING:
            nested = dataclasses.is_dataclass(field.default)
            default = dataclasses.asdict(field.default) if nested else field.default
            filled[field.name] = _plain(default)
    return filled


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
