"""Reads one saved step, by each process alone, and reports what is wrong with it.

Writes nothing. No barrier lies between the processes: where one of them cannot read its pieces, the
others return too, and all compare their results afterwards.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from esam_jax import files, sharding
from esam_jax.errors import DiskError, one_line
from esam_jax.processes import coordinator
from esam_jax.runs import config_file
from esam_jax.tasks import trained
from esam_jax.train.checkpoint import checksums, step_folders
from esam_jax.train.state import TrainState

_AVERAGES = "averages/"  # begins the paths of `TrainState.averages`
FORMAT = "position hash"  # of the checksums item; the first format had the sums alone


class DamagedError(Exception):
    """The step is not what was written; the text completes "checkpoint 12 ..."."""


def checksums_item(state: TrainState) -> dict[str, Any]:
    """What is saved beside a state, for `read` to compare with."""
    return {"format": FORMAT, "arrays": checksums.of(state)}


def read(path: Path, template: TrainState) -> TrainState:
    """The state of a step, laid out as `template`; every process must call it alike.

    It has averages where the step has them, whatever the template says.
    DamagedError on all of them where one cannot read it or an array differs from its checksum,
    DiskError on a transient I/O error, which says nothing about the step.
    """
    fault: Exception | None = None
    state, item = None, {}
    try:
        item = ocp.JsonCheckpointHandler(multiprocessing_options=_alone()).restore(
            epath.Path(path / step_folders.CHECKSUMS)
        )
        template = _as_kept(template, item)
        state = TrainState(**_restore(path, fields(template)))
    except Exception as error:  # Orbax and TensorStore raise built-ins of many kinds
        fault = error
    outcome = None
    if fault is not None:
        causes = _causes(fault)
        transient = any(files.is_transient(cause) for cause in causes)
        lost = [] if transient or not item else _unreadable(path, template)
        outcome = {"transient": transient, "lost": lost, "reason": one_line(causes[-1])}
    found = [json.loads(each) for each in coordinator.gather("the restore", json.dumps(outcome))]
    for each in filter(None, found):
        if each["transient"]:
            raise DiskError(f"checkpoint {path} cannot be read ({each['reason']}): start again")
        names = f" in {', '.join(each['lost'])}" if each["lost"] else ""
        raise DamagedError(f"cannot be read{names} ({each['reason']})") from fault
    assert state is not None
    hashed = item.get("format") == FORMAT
    sums = checksums.of(state) if hashed else checksums.word_sums(state)
    if different := _unequal(sums, item.get("arrays", {}) if hashed else item):
        raise DamagedError(f"is damaged in {', '.join(different)}")
    return state


def differences(path: Path, template: TrainState) -> list[str]:
    """What a step holds otherwise than `template`, in words; [] also where it cannot be read, which
    `read` reports.

    Averages are compared where both have some: they may be turned on and off (train/start.py).
    """
    try:
        saved = config_file.kinds(tree(path))
    except Exception:
        return []
    wanted = config_file.kinds(template)
    if not all(any(name.startswith(_AVERAGES) for name in kinds) for kinds in (saved, wanted)):
        saved, wanted = (
            {name: kind for name, kind in kinds.items() if not name.startswith(_AVERAGES)}
            for kinds in (saved, wanted)
        )
    return config_file.tree_differences(saved, wanted)


def fields(state: TrainState) -> dict[str, Any]:
    """What is saved of a state, by name: Orbax would write a field that is None, too, and could
    not read the checkpoints of before there was one."""
    found = {each.name: getattr(state, each.name) for each in dataclasses.fields(state)}
    return {name: value for name, value in found.items() if value is not None}


def _as_kept(template: TrainState, item: Mapping[str, Any]) -> TrainState:
    """With averages of those parameters alone which have one by the checksums of a step."""
    averaged = {
        name.removeprefix(_AVERAGES)
        for name in item.get("arrays", ())
        if name.startswith(_AVERAGES)
    }
    kept = trained.select(template.params, averaged.__contains__)
    return dataclasses.replace(template, averages=kept or None)


def tree(path: Path) -> Any:
    """Shapes and types of what a step holds, in the place of its arrays."""
    return _handler().metadata(epath.Path(path / step_folders.STATE)).tree


def _restore(path: Path, template: Any) -> Any:
    targets = ocp.checkpoint_utils.construct_restore_args(template)
    return _handler().restore(
        epath.Path(path / step_folders.STATE),
        args=ocp.args.PyTreeRestore(template, restore_args=targets),
    )


def _causes(fault: BaseException) -> list[BaseException]:
    """The error and those it was raised from; Orbax hides the reason behind one of its own."""
    causes = [fault]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    return causes


def _unreadable(path: Path, template: TrainState) -> list[str]:
    """Which arrays cannot be read: each is tried alone, since Orbax ends at the first."""
    leaves, shape = jax.tree_util.tree_flatten_with_path(fields(template))
    lost = []
    for number, (place, _) in enumerate(leaves):
        only = [leaf if n == number else ocp.PLACEHOLDER for n, (_, leaf) in enumerate(leaves)]
        try:
            _restore(path, jax.tree.unflatten(shape, only))
        except Exception:
            lost.append(sharding.name(place))
    return lost


def _handler() -> ocp.PyTreeCheckpointHandler:
    return ocp.PyTreeCheckpointHandler(multiprocessing_options=_alone())


def _alone() -> ocp.options.MultiprocessingOptions:
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
    )


def _unequal(found: Mapping[str, int], wanted: Mapping[str, int]) -> list[str]:
    """The arrays that differ from their checksums, or have none, or are missing."""
    return [path for path in {**wanted, **found} if found.get(path) != wanted.get(path)]
