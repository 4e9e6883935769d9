"""What the loss reads and nothing changes: frozen networks, read, compared, placed and tried out.

Wrong or damaged weights would spoil a run of days unnoticed. So each network's weights are hashed
as they were read: all hosts must have the same, and a resumed run those of its first start, which
`<workdir>/frozen.json` keeps. (A model folder holds a hash of its own, checked by `convert.load`.)
Then each looks at one drawn picture, in the run's own precision and sharding: what it computes must
be finite, and not the same everywhere.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from esam_jax import files, sharding
from esam_jax.convert import digest
from esam_jax.errors import CheckpointError
from esam_jax.machine import compiler_options
from esam_jax.models import rounding
from esam_jax.tasks.task import Frozen, Task
from esam_jax.typing import Params

FILE = "frozen.json"
_MAX_BYTES = 1_000_000  # of that file, which has a hundred for each network


def read(task: Task) -> Params:
    """The weights of every frozen network by its name, on the host; raises as `Frozen.read`."""
    return {name: part.read() for name, part in task.frozen.items()}


def abstract(task: Task, mesh: Mesh) -> Params:
    """Shapes, types and shardings of what `place` returns; opens no file and draws nothing."""
    return {name: _like(task, part, part.shapes(), mesh) for name, part in task.frozen.items()}


def place(task: Task, weights: Params, mesh: Mesh) -> Params:
    """The weights on the devices, each in the type in which it is read (`models/rounding.py`)."""

    def put(leaf: Any, like: jax.ShapeDtypeStruct) -> jax.Array:
        return sharding.place(leaf.astype(like.dtype), like.sharding)

    return {
        name: jax.tree.map(put, weights[name], _like(task, part, weights[name], mesh))
        for name, part in task.frozen.items()
    }


def _like(task: Task, part: Frozen, weights: Params, mesh: Mesh) -> Params:
    """In pieces by the table of parameters, or all of it on every device but for split heads."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), weights)
    (height, width, channels), dtype = task.example["image"]
    picture = jax.ShapeDtypeStruct((1, height, width, channels), dtype)

    def like(leaf: Any, read: Any, where: NamedSharding) -> Any:
        where = where if part.placement == "fsdp" else sharding.without(where, "fsdp")
        return jax.ShapeDtypeStruct(leaf.shape, read, sharding=where)

    types = rounding.dtypes(part.features, shapes, picture)
    return jax.tree.map(like, shapes, types, sharding.shardings(shapes, mesh))


# --------------------------------------------------------------------------------- their hashes


def digests(weights: Params) -> dict[str, str]:
    """SHA-256 of the names, types, shapes and bytes of each network's arrays."""
    return {name: digest.of(params) for name, params in weights.items()}


def compare(task: Task, found: Mapping[str, str], workdir: Path) -> None:
    """CheckpointError unless these are the weights of the run's first start, where it kept them.

    Drawn weights are not compared: another device may draw others.
    """
    file = workdir / FILE
    known: dict[str, Any] = {}
    if file.is_file():
        known = files.read_json(file, max_bytes=_MAX_BYTES, error=CheckpointError)
    for name, part in task.frozen.items():
        if part.drawn or known.get(name) in (None, found[name]):
            continue
        raise CheckpointError(
            f"{part.key}.weights {part.weights} holds other weights than at the first start of "
            f"this run (SHA-256 {found[name][:12]} is not {str(known[name])[:12]} of {file}): give "
            f"those that the run began with (--{part.key}.weights)"
        )


def store(task: Task, found: Mapping[str, str], workdir: Path) -> None:
    """Keeps the hashes for later starts; process 0 writes."""
    kept = {name: found[name] for name, part in task.frozen.items() if not part.drawn}
    if kept and jax.process_index() == 0:
        files.write(workdir / FILE, json.dumps(kept, indent=2) + "\n")


# ---------------------------------------------------------------------------- a look at a picture


def try_out(task: Task, frozen: Params, mesh: Mesh) -> None:
    """CheckpointError for a network whose features of one picture are not finite or all alike.

    Every process must call it, and all find the same.
    """
    for name, part in task.frozen.items():
        shown = picture(task.example["image"][0])
        rows = mesh.shape["data"] * mesh.shape["fsdp"]
        pictures = jax.make_array_from_callback(
            (rows, *shown.shape), sharding.batch(mesh), lambda index, shown=shown: shown[None]
        )

        def look(params: Params, pictures: jax.Array, part: Frozen = part) -> tuple[Any, Any]:
            with sharding.activations(mesh):
                seen = part.features(params, pictures)
            return jnp.isfinite(seen).all(), seen.std((1, 2)).max()  # over positions

        finite, spread = jax.device_get(
            jax.jit(
                look,
                out_shardings=sharding.replicated(mesh),
                compiler_options=compiler_options.once(mesh.devices.flat[0].platform),
            )(frozen[name], pictures)
        )
        if not finite or spread == 0:
            fault = "the same everywhere" if finite else "not finite"
            raise CheckpointError(
                f"the features of {part.key} ({part.weights}) are {fault}: its weights are "
                "damaged, or --compute.dtype is too narrow for it; name other weights "
                f"(--{part.key}.weights)"
            )


def picture(shape: tuple[int, ...]) -> np.ndarray:
    """uint8 [H, W, 3]: ramps and a texture, by arithmetic."""
    y, x, channel = np.indices(shape)
    ramp = np.where(channel == 0, 255 * x // shape[1], 255 * y // shape[0])
    texture = (x * x * 7 + y * y * 13 + x * y * 5) % 61
    return ((ramp + texture + 40 * channel) % 256).astype(np.uint8)
