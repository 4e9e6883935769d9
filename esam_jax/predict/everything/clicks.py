"""Clicks on a picture as the decoder takes them: all of them in one array."""

import numpy as np
from jaxtyping import Float, Int

from esam_jax.config import SamConfig
from esam_jax.ops import geometry
from esam_jax.predict import batches
from esam_jax.predict.prompt import Prompt


def as_queries(
    clicks: Float[np.ndarray, "X 2"], config: SamConfig, height: int, width: int
) -> tuple[Float[np.ndarray, "X P 2"], Int[np.ndarray, "X P"]]:
    """Points in the frame of the model input, and labels, of one foreground click a query.

    As `batches.query` has it for a `Prompt` of that click, clipped to its picture.
    """
    # All slots but the first are those of any click.
    points, labels = batches.query(Prompt(points=[[0, 0]]), config, height, width)
    points = np.repeat(points[None], len(clicks), axis=0)
    on_picture = np.clip(clicks, 0, np.nextafter([width, height], 0))
    points[:, 0] = geometry.to_model(on_picture, height, width, config.image_px, config.fit)
    return points, np.repeat(labels[None], len(clicks), axis=0)
