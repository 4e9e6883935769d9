"""Whether a saved step reads as it was written. Nothing on the disk is changed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath

from esam_jax import files
from esam_jax.errors import DiskError, one_line
from esam_jax.train.checkpoint import checksums, step_folders

_INDEX_BYTES = 1 << 24  # kept in memory of a checkpoint's index while it is read


def fault(path: Path) -> str | None:
    """What is wrong with a step on disk, or None. Reads it whole, by this process alone.

    DiskError where the disk does not answer, which says nothing about the step.
    """
    found, lost, why = {}, [], ""
    try:
        wanted = ocp.JsonCheckpointHandler().restore(epath.Path(path / step_folders.CHECKSUMS))
        arrays = _arrays(path / step_folders.STATE)
    except Exception as error:
        _require_a_disk(path, error)
        return f"cannot be read ({one_line(error)})"
    # One by one: memory for one is enough, and Orbax, where one of many cannot be read, names that
    # one only and leaves the others' threads to complain on stderr.
    database = {"driver": "ocdbt", "base": f"file://{path / step_folders.STATE}/"}
    context = ts.Context({"cache_pool": {"total_bytes_limit": _INDEX_BYTES}})
    for name, key in arrays.items():
        spec = {"driver": "zarr", "kvstore": {**database, "path": f"{key}/"}}
        try:
            array = ts.open(spec, context=context, open=True, read=True).result().read().result()
        except Exception as error:
            _require_a_disk(path, error)
            lost.append(name)
            why = why or one_line(error)
        else:
            found[name] = checksums.of_array(array)
    if lost:
        return f"cannot be read in {', '.join(lost)} ({why})"
    return unequal(found, wanted)


def _require_a_disk(path: Path, fault: Exception) -> None:
    if files.is_transient(fault):
        raise DiskError(
            f"checkpoint {path} cannot be read ({one_line(fault)}): start again"
        ) from fault


def _arrays(folder: Path) -> dict[str, str]:
    """Path of each leaf -> its key in the database, as Orbax wrote them down.

    Orbax would tell as well, but it asks TensorStore for JSON of each array, which never gives the
    memory back (0.1.86): 3 MB for each checkpoint of 500 arrays.
    """
    described = json.loads((folder / "_METADATA").read_text())["tree_metadata"]
    # What else Orbax reads as JSON, and ends of where it is cut short.
    for file in (folder / "_sharding", *(folder / "array_metadatas").glob("*")):
        if file.exists():
            json.loads(file.read_text())
    keys = [
        [part["key"] for part in leaf["key_metadata"]]
        for leaf in described.values()
        if not leaf["value_metadata"]["skip_deserialize"]  # empty branches, which have no array
    ]
    return {"/".join(key): ".".join(key) for key in keys}


def unreadable(path: Path) -> str | None:
    """Why Orbax cannot tell what a step holds, if it cannot; see `_arrays` for when not to ask."""
    try:
        tree(path)
    except Exception as error:
        _require_a_disk(path, error)
        return f"cannot be read ({one_line(error)})"
    return None


def tree(path: Path) -> Any:
    """Shape and type of what a step holds, in the place of its arrays."""
    return _local_reader().metadata(epath.Path(path / step_folders.STATE)).tree


def _local_reader() -> ocp.PyTreeCheckpointHandler:
    """Reads without waiting for the other processes, as a thread of one of them must."""
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
    )
    return ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)


def unequal(found: Mapping[str, int], wanted: Mapping[str, int]) -> str | None:
    """Which arrays differ from their sums, or are on one side only; None if all are equal."""
    paths = [path for path in {**wanted, **found} if found.get(path) != wanted.get(path)]
    return f"is damaged in {', '.join(paths)}" if paths else None
