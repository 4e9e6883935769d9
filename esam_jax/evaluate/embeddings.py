"""How far a student's embedding is from its teacher's, on pictures that are not trained on.

Over a mesh: every device computes its own pictures, and the sums are those of all.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from esam_jax import sharding
from esam_jax.config import EvaluateConfig, FramedConfig
from esam_jax.data import order, sources, views
from esam_jax.data.records import Source
from esam_jax.data.views import draws
from esam_jax.errors import DataError, MissingError
from esam_jax.evaluate import prompts
from esam_jax.machine import compiler_options
from esam_jax.typing import Params

# (the student's parameters, those of frozen networks, uint8 pictures) -> error of each picture
Compare = Callable[[Params, Params, Array], Array]


def measurement(
    compare: Compare, view: FramedConfig, config: EvaluateConfig, mesh: Mesh
) -> Callable[[Params, Params], dict[str, Any]]:
    """Parameters, placed on the mesh -> {"embedding_mse": mean over the pictures}, if any.

    The pictures are those of `prompts.measurement`, as `view` shows them; broken ones are left out.
    Opens the data now; every process must call the result, and all find the same.
    """
    source = sources.open_source(config.source, "evaluate.source.")
    numbers = prompts.chosen(source, config.images, config.seed)
    rows, place = mesh.shape["data"] * mesh.shape["fsdp"], sharding.batch(mesh)

    def total(params: Params, frozen: Params, image: Array, weight: Array) -> tuple[Array, Array]:
        with sharding.activations(mesh):
            error = compare(params, frozen, image)
        return jnp.where(weight > 0, error, 0).sum(), weight.sum()

    jitted = jax.jit(
        total,
        out_shardings=sharding.replicated(mesh),
        compiler_options=compiler_options.once(mesh.devices.flat[0].platform),
    )

    def run(params: Params, frozen: Params) -> dict[str, Any]:
        error = weight = 0.0
        for first in range(0, len(numbers), rows):
            batch = numbers[first : first + rows]
            mine = [_seen(source, batch, row, view) for row in order.local_rows(place, rows)]
            image, known = (np.stack(each) for each in zip(*mine, strict=True))
            given = (
                jax.make_array_from_process_local_data(place, each, (rows, *each.shape[1:]))
                for each in (image, known)
            )
            part = jax.device_get(jitted(params, frozen, *given))
            error, weight = error + float(part[0]), weight + float(part[1])
        return {"embedding_mse": round(error / weight, 6)} if weight else {}

    return run


def _seen(
    source: Source, batch: list[int], row: int, view: FramedConfig
) -> tuple[np.ndarray, np.float32]:
    """The picture of a row, and 1; zeros and 0 where there is none."""
    if row < len(batch):
        try:
            record = source.read(batch[row])
            made = views.make(record, view, draws.generator(0, 0, record.name))
        except (DataError, MissingError):  # `prompts` counts and names them
            made = None
        if made is not None:
            return made["image"], np.float32(1)
    shape, dtype = views.shapes(view)["image"]
    return np.zeros(shape, dtype), np.float32(0)
