"""What a network makes of each picture, in their order, over the devices of this host."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array
from tqdm import tqdm

from esam_jax import sharding
from esam_jax.config import MeshConfig
from esam_jax.data.views import View
from esam_jax.evaluate import read_ahead
from esam_jax.typing import Batch, Params

_MOST_AHEAD = 2  # batches that devices have been given, of which the first is waited for

# (parameters, batch) -> by name, a row of each picture
Compute = Callable[[Params, Batch], Mapping[str, Array]]


class Rows(NamedTuple):
    """`values` have a row for each of the pictures that can be used.

    `places` are theirs, and `broken` says why others are left out.
    """

    places: list[int]
    values: dict[str, np.ndarray]
    broken: list[str]


def local_mesh(pictures: int) -> Mesh:
    """As many devices of this host as have work."""
    devices = jax.local_devices()[: max(1, pictures)]
    return sharding.make_mesh(MeshConfig(data=len(devices)), devices)


def of(
    compute: Compute,
    params: Params,
    read: Callable[[int], View],
    shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    places: Sequence[int],
    *,
    per_device: int,
    what: str,
    progress: bool | None = None,
) -> Iterator[Rows]:
    """The rows of the pictures at these places, batch by batch; `read` as for `read_ahead`.

    `what` names the work at the bar on stderr, which `progress` forces on or off.
    """
    mesh = local_mesh(-(-len(places) // per_device))
    devices, place = mesh.size, sharding.batch(mesh)
    rows = devices * min(per_device, -(-len(places) // devices))

    @jax.jit
    def jitted(params: Params, batch: Batch) -> dict[str, Array]:
        with sharding.activations(mesh):
            return dict(compute(params, batch))

    placed = jax.device_put(params, sharding.replicated(mesh))
    hidden = not (sys.stderr.isatty() if progress is None else progress)
    waiting: list[tuple[list[int], read_ahead.Read, dict[str, Array]]] = []
    with tqdm(total=len(places), desc=what, unit="picture", disable=hidden) as bar:

        def next_rows() -> Rows:
            batch, made, found = waiting.pop(0)
            known = made.known[: len(batch)]
            values = jax.device_get(found)
            kept = {name: np.asarray(x)[: len(batch)][known] for name, x in values.items()}
            bar.update(len(batch))
            used = [each for each, is_known in zip(batch, known, strict=True) if is_known]
            return Rows(used, kept, made.broken)

        every = read_ahead.batches(read, shapes, places, rows, range(rows))
        for number, made in enumerate(every):
            found = jitted(placed, jax.device_put(made.arrays, place))
            waiting.append(([*places[number * rows : (number + 1) * rows]], made, found))
            if len(waiting) == _MOST_AHEAD:
                yield next_rows()
        while waiting:
            yield next_rows()
