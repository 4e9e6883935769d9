"""How often the class of a picture is the likeliest, or among the five likeliest.

ImageNet's protocol as MAE has it: the centre of the picture, of the size that the model takes.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Integer

from esam_jax.config import ClassifiedConfig, EvaluateConfig
from esam_jax.data import class_names, records, sources
from esam_jax.data.views import View, classified
from esam_jax.evaluate import picture_means, prompts
from esam_jax.typing import Batch, Params

_PER_DEVICE = 32


def rank(logits_BX: Float[Array, "B X"], labels_B: Integer[Array, " B"]) -> Integer[Array, " B"]:
    """How many classes are likelier than that of the label, or as likely and before it."""
    own_B1 = jnp.take_along_axis(logits_BX, labels_B[:, None], axis=1)
    before = jnp.arange(logits_BX.shape[1]) < labels_B[:, None]
    return ((logits_BX > own_B1) | ((logits_BX == own_B1) & before)).sum(1)


def measurement(
    logits: Callable[[Params, Array], Array],
    view: ClassifiedConfig,
    config: EvaluateConfig,
    mesh: Mesh,
    *,
    options: str = "evaluate.source.",
) -> Callable[[Params, Params], dict[str, Any]]:
    """Parameters, placed on the mesh -> top1, top5 (from 0 to 1), images, skipped, reasons.

    `logits` are those of uint8 pictures; `options` as for `sources.open_source`.
    What is broken, or of a class that the model does not know by name, is left out and counted; a
    UserWarning says so. ConfigError where no class is known. Opens the data now; every process must
    call the result, and all find the same.
    """
    source = sources.open_source(config.source, options, frozenset({"label"}))
    places = prompts.chosen(source, config.images, config.seed)
    shapes = {name: classified.shapes(view)[name] for name in ("image", "label")}

    names, where = records.classes(source), "the data to measure on"
    matched = class_names.match(view.class_names, classified.count(view), names, where)

    def read(place: int) -> View:
        record = source.read(place)
        label = np.asarray(matched.number(record.annotation("label"), record.name), np.int32)
        return {"image": classified.centred(record, view.image_px), "label": label}

    def compute(params: Params, frozen: Params, batch: Batch) -> dict[str, Array]:
        del frozen
        ranks = rank(logits(params, batch["image"]), batch["label"])
        return {f"top{most}": ranks < most for most in (1, 5)}

    known = prompts.of_source(source)
    over = picture_means.over(compute, read, shapes, places, mesh, per_device=_PER_DEVICE)

    def run(params: Params, frozen: Params) -> dict[str, Any]:
        found = over(params, frozen)
        reasons = prompts.warn(known, found.broken, options)
        return {
            **{name: round(value, 6) for name, value in found.values.items()},
            "images": found.pictures,
            "skipped": len(places) - found.pictures,
            **({"reasons": reasons} if reasons else {}),
        }

    return run
