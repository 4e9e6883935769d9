"""Means over pictures of what a network makes of each, over a mesh.

Every device computes its own pictures, and the means are those of all.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array

from esam_jax import sharding
from esam_jax.data import order
from esam_jax.data.views import View
from esam_jax.evaluate import read_ahead
from esam_jax.machine import compiler_options
from esam_jax.typing import Batch, Params

# (trained parameters, those of frozen networks, batch) -> by name, a value of each picture
Compute = Callable[[Params, Params, Batch], Mapping[str, Array]]


class Means(NamedTuple):
    """Over `pictures`; `broken` says why this process left out some of its own."""

    values: dict[str, float]
    pictures: int
    broken: list[str]


def over(
    compute: Compute,
    read: Callable[[int], View],
    shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    places: Sequence[int],
    mesh: Mesh,
    *,
    per_device: int = 1,
) -> Callable[[Params, Params], Means]:
    """(parameters, those of frozen networks; placed on the mesh) -> means over the pictures.

    `read` makes the arrays of the picture at a place, of these `shapes`; one that raises DataError
    or MissingError is left out. `per_device` of them are computed at once. Every process must call
    the result, and all find the same.
    """
    devices, place = mesh.shape["data"] * mesh.shape["fsdp"], sharding.batch(mesh)
    rows = devices * min(per_device, -(-len(places) // devices))
    jitted = _sums(compute, mesh)

    def run(params: Params, frozen: Params) -> Means:
        sums: dict[str, float] = {}
        broken: list[str] = []
        mine = order.local_rows(place, rows)
        for made in read_ahead.batches(read, shapes, places, rows, mine):
            broken += made.broken
            given = made.arrays, made.known.astype(np.float32)
            part = jitted(params, frozen, *_placed(given, place, rows))
            for name, value in jax.device_get(part).items():
                sums[name] = sums.get(name, 0.0) + float(value)
        pictures = sums.pop("weight")
        values = {name: value / pictures for name, value in sums.items()} if pictures else {}
        return Means(values, int(pictures), broken)

    return run


def _sums(compute: Compute, mesh: Mesh) -> Callable[..., dict[str, Array]]:
    """(parameters, those of frozen networks, batch, weights of 0 or 1) -> sums, and of weights."""

    def total(params: Params, frozen: Params, batch: Batch, weight: Array) -> dict[str, Array]:
        with sharding.activations(mesh):
            values = compute(params, frozen, batch)
        sums = {name: jnp.where(weight > 0, x, 0).sum() for name, x in values.items()}
        return {**sums, "weight": weight.sum()}

    return jax.jit(
        total,
        out_shardings=sharding.replicated(mesh),
        compiler_options=compiler_options.once(mesh.devices.flat[0].platform),
    )


def _placed(local: Any, place: NamedSharding, rows: int) -> Any:
    """Global arrays of the rows that this process holds."""

    def one(mine: np.ndarray) -> Array:
        shape = (rows, *mine.shape[1:])
        return jax.make_array_from_process_local_data(place, mine, shape)

    return jax.tree.map(one, local)
