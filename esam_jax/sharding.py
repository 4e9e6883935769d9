"""All of sharding: the mesh, and the table that places every parameter on it.

Mesh axes: `data` splits the batch; `fsdp` splits the batch and stores parameters in pieces;
`tensor` splits heads and MLP widths. `jax.jit` with these shardings in and out inserts the
collectives. Placement goes by parameter path, and the optimiser's state follows: the paths of its
moments end in the same names.
"""

import contextlib
import math
import re
from collections.abc import Iterable, Sequence
from types import EllipsisType
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from esam_jax.config import MeshConfig
from esam_jax.errors import ConfigError
from esam_jax.words import counted

P = PartitionSpec
AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

_ATTENTION = r"(attn|self_attn|token_to_image|image_to_token|final_attn)"

# (end of the parameter's path, how its axes are split). Kernels are [in..., out...]; query, key
# and value make [D, A, K], `out` takes [A, K, D] (typing.py has the letters). What has no row is
# replicated: norms, biases of what is not split, position tables, tokens, necks, convolutions.
TABLE: tuple[tuple[str, PartitionSpec], ...] = (
    (rf"{_ATTENTION}/(query|key|value)/kernel", P("fsdp", "tensor", None)),
    (rf"{_ATTENTION}/(query|key|value)/bias", P("tensor", None)),
    (rf"{_ATTENTION}/out/kernel", P("tensor", None, "fsdp")),
    (r"mlp/hidden/kernel", P("fsdp", "tensor")),
    (r"mlp/hidden/bias", P("tensor")),
    (r"mlp/out/kernel", P("tensor", "fsdp")),
    (r"patch_embed/kernel", P(None, "fsdp")),
    (r"(embed|head)/kernel", P("fsdp", None)),
    (r"(encoder|text)/project/kernel", P("fsdp", None)),
    (r"text/words", P(None, "fsdp")),
)
DEFAULT = P()  # replicated
_NAMED = 3  # faults of a tree that one error spells out

# What models call the axes of activations, and the mesh axes that split each of them. Axes without
# a name here (tokens, embed, head_dim) are complete on every device.
LOGICAL: dict[str, str | tuple[str, ...]] = {
    "batch": BATCH_AXES,
    "heads": "tensor",
    "mlp": "tensor",
}


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over `devices` (default: all); ConfigError unless the axes fill them.

    With `data` given, one process may use fewer devices than it has: the first ones. Over several
    TPU slices only `data` is split: ConfigError when the other axes do not fit into one.
    """
    devices = jax.devices() if devices is None else list(devices)
    rest = config.fsdp * config.tensor
    data = len(devices) // max(rest, 1) if config.data is None else config.data
    shape = (data, config.fsdp, config.tensor)
    wanted, fewer_is_fine = math.prod(shape), config.data is not None and jax.process_count() == 1
    if min(shape) < 1 or wanted > len(devices) or (wanted < len(devices) and not fewer_is_fine):
        raise ConfigError(
            f"mesh data={config.data}, fsdp={config.fsdp}, tensor={config.tensor} does not fill "
            f"{counted(len(devices), 'device')}: choose sizes whose product is {len(devices)}"
        )
    # Auto: the compiler derives every layout from those of the arguments and results.
    kinds = (AxisType.Auto,) * len(AXES)
    return Mesh(_arrange(shape, devices[:wanted]), AXES, axis_types=kinds)


def _arrange(shape: tuple[int, int, int], devices: Sequence[jax.Device]) -> np.ndarray:
    """The devices in the shape of the mesh: the last axes, which communicate most, on the fastest
    links.

    `jax.make_mesh` knows the topology of one TPU slice and refuses several; it takes each GPU host
    for a slice (jax pull request 37863), although any axis may span GPU hosts.
    """
    slices: dict[int, list[jax.Device]] = {}
    for device in devices:
        slices.setdefault(getattr(device, "slice_index", 0), []).append(device)
    parts = [slices[index] for index in sorted(slices)]
    if devices[0].platform == "tpu":
        inside = _inside_a_slice(shape, [len(part) for part in parts])
        return np.concatenate([jax.make_mesh(inside, AXES, devices=p).devices for p in parts])
    near = [sorted(part, key=lambda device: (device.process_index, device.id)) for part in parts]
    return np.array([device for part in near for device in part], dtype=object).reshape(shape)


def _inside_a_slice(shape: tuple[int, int, int], sizes: Sequence[int]) -> tuple[int, int, int]:
    """The part of the mesh that one of the slices of these sizes holds; only `data` is cut."""
    _, fsdp, tensor = shape
    if len(set(sizes)) > 1 or sizes[0] % (fsdp * tensor):
        raise ConfigError(
            f"mesh fsdp={fsdp} x tensor={tensor} does not fit into each of {len(sizes)} slices of "
            f"{', '.join(map(str, sizes))} devices: the network between them is slow and splits "
            "only data, so choose fsdp and tensor whose product divides the devices of one slice"
        )
    return sizes[0] // (fsdp * tensor), fsdp, tensor


def replicated(mesh: Mesh) -> NamedSharding:
    """A complete copy on every device."""
    return NamedSharding(mesh, P())


def batch(mesh: Mesh) -> NamedSharding:
    """The leading axis split over `data` and `fsdp` together."""
    return NamedSharding(mesh, P(BATCH_AXES))


def activations(mesh: Mesh | AbstractMesh) -> contextlib.AbstractContextManager[Any]:
    """While a program is traced in it, `constrain` lays activations out on `mesh`."""
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def constrain(x: jax.Array, *axes: str | EllipsisType | None) -> jax.Array:
    """`x`, laid out as the logical names of its axes say; unchanged outside of `activations`.

    Without it the compiler may follow the parameters, which `fsdp` splits too: it would keep the
    complete batch on every device and sum partial products, which are larger than the parameters.
    An Ellipsis stands for any number of axes that are not split.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    names: list[str | None] = []
    for axis in axes:
        names += [None] * (x.ndim - len(axes) + 1) if axis is ... else [axis]
    spec = P(*(None if axis is None else LOGICAL[axis] for axis in names))
    return jax.lax.with_sharding_constraint(x, spec)


def without(place: NamedSharding, axis: str) -> NamedSharding:
    """The same placement, but not split over that mesh axis."""
    return NamedSharding(place.mesh, P(*(None if each == axis else each for each in place.spec)))


def place(array: Any, where: NamedSharding) -> jax.Array:
    """One global array of what every process holds completely; each takes its own pieces.

    `jax.device_put` would first send it to all processes, to check that they hold the same.
    """
    complete = np.asarray(array)
    return jax.make_array_from_callback(complete.shape, where, complete.__getitem__)


def gather(tree: Any, mesh: Mesh) -> Any:
    """The complete arrays of a sharded tree on the host; every process must call it."""
    return jax.device_get(jax.jit(_identity, out_shardings=replicated(mesh))(tree))


def check_batch(size: int, accumulate: int, mesh: Mesh) -> None:
    """ConfigError unless every device gets equally many examples of each micro-batch."""
    parts = accumulate * mesh.shape["data"] * mesh.shape["fsdp"]
    if size % parts:
        raise ConfigError(
            f"batch is {size}, but must be a multiple of {parts}: accumulate={accumulate} "
            f"micro-batches over data={mesh.shape['data']} x fsdp={mesh.shape['fsdp']} devices"
        )


def _identity(tree: Any) -> Any:
    return tree


def name(path: tuple[Any, ...]) -> str:
    """A tree path as parameters are named everywhere: "encoder/block_07/attn/query/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def spec(path: str) -> PartitionSpec:
    """The row of a parameter, or DEFAULT; ConfigError when several rows match its path."""
    rows = [row for row in TABLE if _matches(row[0], path)]
    if len(rows) > 1:
        found = " and ".join(repr(pattern) for pattern, _ in rows)
        raise ConfigError(
            f"parameter {path} may match at most one row of sharding.TABLE, but matches {found}: "
            "narrow one of the patterns"
        )
    return rows[0][1] if rows else DEFAULT


def check_rows(paths: Iterable[str]) -> None:
    """ConfigError names each row of the table that matches none of `paths`.

    One model leaves rows unused: give the parameters of every model there is.
    """
    paths = list(paths)
    idle = [row for row, _ in TABLE if not any(_matches(row, path) for path in paths)]
    if idle:
        raise ConfigError(
            f"no parameter matches {' and '.join(map(repr, idle))} of sharding.TABLE: correct or "
            "delete the row"
        )


def _matches(pattern: str, path: str) -> bool:
    return re.search(rf"(?:^|/){pattern}$", path) is not None


def shardings(tree: Any, mesh: Mesh) -> Any:
    """A NamedSharding for every leaf of parameters, optimiser state or both.

    Scalars are replicated. `tree` may be abstract. ConfigError names leaves that have several rows
    or that do not divide: the first ones, and how many there are.
    """
    faults: list[str] = []

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        full_name, shape = name(path), np.shape(leaf)
        if not shape:
            return replicated(mesh)
        try:
            rule = spec(full_name)
        except ConfigError as fault:
            faults.append(str(fault))
            return replicated(mesh)
        faults.extend(_indivisible(full_name, shape, rule, mesh))
        return NamedSharding(mesh, rule)

    placed = jax.tree_util.tree_map_with_path(place, tree)
    if faults:
        more = f"; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise ConfigError("; ".join(faults[:_NAMED]) + more)
    return placed


def _indivisible(
    full_name: str, shape: tuple[int, ...], rule: PartitionSpec, mesh: Mesh
) -> list[str]:
    if len(rule) > len(shape):
        return [f"parameter {full_name} of shape {shape} has fewer axes than its row {rule}"]
    return [
        f"parameter {full_name} of shape {shape}: axis {i} of size {size} does not divide into "
        f"mesh axis {axis}={mesh.shape[axis]}; choose a mesh size that divides it"
        for i, (size, axis) in enumerate(zip(shape, rule))
        if axis is not None and size % mesh.shape[axis]
    ]
