"""How far a student's embedding is from its teacher's, on pictures that are not trained on."""

from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh
from jaxtyping import Array

from esam_jax.config import EvaluateConfig, FramedConfig
from esam_jax.data import sources, views
from esam_jax.data.views import View, draws
from esam_jax.evaluate import picture_means, prompts
from esam_jax.typing import Batch, Params

# (the student's parameters, those of frozen networks, uint8 pictures) -> error of each picture
Compare = Callable[[Params, Params, Array], Array]


def measurement(
    compare: Compare, view: FramedConfig, config: EvaluateConfig, mesh: Mesh
) -> Callable[[Params, Params], dict[str, Any]]:
    """Parameters, placed on the mesh -> {"embedding_mse": mean over the pictures}, if any.

    The pictures are those of `prompts.measurement`, which counts and names broken ones, as `view`
    shows them. Opens the data now; every process must call the result, and all find the same.
    """
    source = sources.open_source(config.source, "evaluate.source.")
    places = prompts.chosen(source, config.images, config.seed)

    def read(place: int) -> View:
        record = source.read(place)
        made = views.make(record, view, draws.generator(0, 0, record.name))
        assert made is not None  # of a view that shows every picture
        return made

    def compute(params: Params, frozen: Params, batch: Batch) -> dict[str, Array]:
        return {"embedding_mse": compare(params, frozen, batch["image"])}

    over = picture_means.over(compute, read, {"image": views.shapes(view)["image"]}, places, mesh)

    def run(params: Params, frozen: Params) -> dict[str, Any]:
        found = over(params, frozen).values
        return {name: round(value, 6) for name, value in found.items()}

    return run
