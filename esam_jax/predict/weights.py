"""Where the weights of a model are kept that answers prompts or texts, and in which types.

Programs read most weights in the type of the computation. In float32 that is how they come. In 16
bits they are rounded once, for the device, and the float32 ones stay on the host: rounding them in
every call takes longer than some networks, and both on the device would take three times the room.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esam_jax.models import rounding
from esam_jax.models.sam import network
from esam_jax.typing import Params

_POINTS = 2


def kept(
    model: Any, params: Params, types: Callable[[Any, Params], Params]
) -> tuple[Params, Params]:
    """`params` for people, and what programs read instead, which is on the device.

    `types(model, params)` gives those in which programs read them. NumPy arrays are copied:
    those of a file are views of it.
    """
    if model.compute.dtype == "float32":
        placed = jax.tree.map(_on_device, params)
        return placed, placed
    host = jax.tree.map(_on_host, params)
    return host, jax.tree.map(_on_device, rounding.rounded(host, types(model, host)))


def dtypes(model: network.Sam, params: Params) -> Params:
    """The types in which `encode` and `decode` of `model` read `params`, which may be abstract."""
    config = model.config
    px, grid, side = config.image_px, config.encoder.grid, config.low_res_px
    width = config.decoder.text_width
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)

    def programs(
        params: Params, pixels: Any, embedding: Any, points: Any, labels: Any, masks: Any
    ) -> Any:
        def apply(*arrays: Any, method: str) -> Any:
            return model.apply({"params": params}, *arrays, method=method)

        answers = [
            apply(pixels, method="encode"),
            apply(embedding, points, labels, method="decode"),
        ]
        if config.decoder.mask_prompts == "learned":
            answers.append(apply(embedding, points, labels, masks, method="decode"))
        if width is not None:
            text = jnp.zeros((1, 1, width))
            answers.append(apply(embedding, points, labels, None, text, method="decode"))
        return answers

    return rounding.dtypes(
        programs,
        shapes,
        *(
            jax.ShapeDtypeStruct(shape, jnp.float32)
            for shape in ((1, px, px, 3), (1, grid, grid, config.decoder.width), (1, 1, _POINTS, 2))
        ),
        jax.ShapeDtypeStruct((1, 1, _POINTS), jnp.int32),
        jax.ShapeDtypeStruct((1, 1, side, side), jnp.float32),
    )


def _on_device(leaf: Any) -> jax.Array:
    return jax.device_put(leaf, may_alias=False if isinstance(leaf, np.ndarray) else None)


def _on_host(leaf: Any) -> np.ndarray:
    host = np.array(leaf) if isinstance(leaf, np.ndarray) else np.asarray(leaf)
    host.flags.writeable = False
    return host
