"""What a resumed run may not change: the values of its config, and the shapes of its state.

`<workdir>/config.json` is the complete resolved config of the run so far.
"""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from esam_jax import files, sharding
from esam_jax.config import RunConfig
from esam_jax.config import json as config_json
from esam_jax.errors import CheckpointError, DiskError, ExistsError
from esam_jax.runs import metrics_file

CONFIG_FILE = "config.json"
CHANGES_FILE = "config_changes.jsonl"
CHANGE_EVENT = "config_change"

_MOST_BYTES = 1_000_000  # a config has a few thousand

Kind = tuple[tuple[int, ...], str]  # shape and type of an array


@dataclasses.dataclass(frozen=True)
class Change:
    """A value that decides what is computed, in the stored config and now."""

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.path} was {json.dumps(self.old)}, is {json.dumps(self.new)}"

    @property
    def option(self) -> str:
        """That of the command line which has the old value; a switch takes none."""
        name = f"--{self.path.replace('_', '-')}"
        return name if isinstance(self.old, bool) else f"{name} {self.old}"


def require_own(workdir: Path) -> None:
    """ExistsError where a new run would replace or extend what no run has written.

    Other files, such as the log of a job, may lie in the folder.
    """
    file = workdir / CONFIG_FILE
    if file.exists():
        try:
            stored = files.read_json(
                file, max_bytes=_MOST_BYTES, error=CheckpointError, finite=False
            )
        except CheckpointError:
            stored = {}
        if {"task", "data", "steps"} <= stored.keys():
            return
        found = file
    else:
        names = (metrics_file.METRICS_FILE, CHANGES_FILE, "model", "checkpoints/[!.]*")
        found = next((path for name in names for path in workdir.glob(name)), None)
    if found is not None:
        raise ExistsError(
            f"{found} was not written by a run, which would replace or extend it: name another "
            "folder with --workdir"
        )


def require_same(
    cfg: RunConfig, workdir: Path, step: int = 0, resume_with: Collection[str] = ()
) -> None:
    """CheckpointError, with one line for each value, unless `cfg` may resume the run in `workdir`.

    The values whose paths `resume_with` names may differ. `step` counts the updates done, and
    `cfg` must not have fewer. CheckpointError also when the stored config is missing or damaged,
    or when no update is left that a change would act on; DiskError on an error of the disk.
    """
    changed = changes(cfg, workdir)
    found = [change for change in changed if change.path not in resume_with]
    if found:
        # A run cannot become shorter than it is.
        wanted = [each for each in found if each.path != "steps" or each.new >= step]
        on_purpose = " ".join(f"{each.path}={each.new}" for each in wanted)
        raise CheckpointError(
            f"{workdir} belongs to another run: {'; '.join(map(str, found))}. To resume it, "
            f"{_as_before(found)}; for a new run, another workdir"
            + (f"; to change the run on purpose, --resume-with {on_purpose}" if wanted else "")
        )
    if changed and cfg.steps == step:
        named = ", ".join(f"{each.path}={each.new}" for each in changed)
        raise CheckpointError(
            f"{workdir} has done all {step} updates, so {named} would change nothing: add steps=N "
            f"to --resume-with, N above {step}"
        )
    if cfg.steps < step:
        raise CheckpointError(
            f"steps={cfg.steps} is below the {step} updates that {workdir} has done: give more "
            f"than {step}"
        )


def _as_before(found: Sequence[Change]) -> str:
    """What to do with the command line; a switch that was off has to be left out."""
    given = [each.option for each in found if each.old is not False]
    without = [each.option for each in found if each.old is False]
    parts = (("give", given), ("leave out", without))
    return " and ".join(f"{verb} {' '.join(options)}" for verb, options in parts if options)


def changes(cfg: RunConfig, workdir: Path) -> list[Change]:
    """What differs from the stored config and is not marked with MAY_DIFFER."""
    before = config_json.to_json(_read(workdir / CONFIG_FILE))
    found = config_json.differences(before, config_json.to_json(cfg))
    return [Change(*each) for each in found if not config_json.may_differ(RunConfig, each[0])]


def stored(workdir: Path) -> RunConfig | None:
    """The config of the run in a folder, None where there is no run.

    CheckpointError where it is damaged.
    """
    file = workdir / CONFIG_FILE
    return _read(file) if file.exists() else None


def _read(file: Path) -> RunConfig:
    try:
        return config_json.from_json(RunConfig, json.loads(file.read_text()), "the stored config")
    except (FileNotFoundError, ValueError, RecursionError) as fault:
        raise CheckpointError(
            f"{file} is missing or damaged ({fault}), so the checkpoints beside it cannot be "
            "trusted: name another workdir"
        ) from fault
    except OSError as fault:
        raise DiskError(f"{file} cannot be read ({fault.strerror}): start again") from fault


def store(cfg: RunConfig, workdir: Path, step: int = 0) -> None:
    """Writes config.json, unless it says the same already.

    Of a run that has done `step` updates, what was changed on purpose goes into
    config_changes.jsonl first: {"step": ..., "changes": {path: [old, new]}}.
    """
    file, text = workdir / CONFIG_FILE, json.dumps(config_json.to_json(cfg), indent=2) + "\n"
    found = changes(cfg, workdir) if step else []
    if found:
        line = {"step": step, "changes": {each.path: [each.old, each.new] for each in found}}
        known = history(workdir)
        if known[-1:] != [line]:  # or the process ended before config.json was written
            lines = (json.dumps(each) + "\n" for each in [*known, line])
            files.write(workdir / CHANGES_FILE, "".join(lines))
    if not file.exists() or file.read_text() != text:
        files.write(file, text)


def history(workdir: Path) -> list[dict[str, Any]]:
    """The lines of config_changes.jsonl."""
    file = workdir / CHANGES_FILE
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def unlogged(workdir: Path) -> list[dict[str, Any]]:
    """Those of which metrics.jsonl has no event yet."""
    lines = metrics_file.read(workdir / metrics_file.METRICS_FILE)
    logged = sum(line.get("event") == CHANGE_EVENT for line in lines)
    return history(workdir)[logged:]


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
