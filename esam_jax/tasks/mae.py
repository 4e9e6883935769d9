"""MAE: a ViT rebuilds the pixels of the patches it has not seen (arXiv:2111.06377).

What SAMI is compared with (arXiv:2312.00863, table 1): the same views, masking and optimiser, but
the target needs no teacher. As upstream models_mae.py computes it; with `task.align` as DMAE does
(`tasks/alignment.py`).
"""

import functools
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from esam_jax.config import MaeConfig, MaePretrainConfig, RunConfig
from esam_jax.convert import load
from esam_jax.convert.model_folder import ModelFile
from esam_jax.data import views
from esam_jax.errors import CheckpointError, ConfigError
from esam_jax.models.pretrain import mae
from esam_jax.models.pretrain.mae import Mae
from esam_jax.ops import images, losses, masking, patches
from esam_jax.tasks import alignment, plain_vit, start, stored
from esam_jax.tasks.alignment import Alignment
from esam_jax.tasks.task import Start, Task, TrainedModel
from esam_jax.typing import Batch, Params, PerExample

# Parts of a model with a decoder, beside encoder, class token and norm.
_DECODER = ("embed", "mask_token", "decoder", "head")


def build(config: RunConfig) -> Task:
    """The MAE task of a run; ConfigError for an encoder, teacher and view that do not fit."""
    task, image_px = config.task, config.data.view.image_px
    assert isinstance(task, MaePretrainConfig)
    if stored.folder(config) is not None:
        raise ConfigError(
            "data.view.features is set, but MAE rebuilds pixels, and what a teacher sees of a "
            "picture is drawn each time: leave it out"
        )
    encoder = plain_vit.encoder("task.model", task.model, image_px)
    network = MaeConfig(encoder=encoder, decoder=task.decoder)
    tokens = encoder.pretrain_grid**2
    visible = masking.visible_tokens(tokens, task.mask_ratio)
    model, aligned = Mae(network, config.compute), None
    if task.align is not None:
        aligned = Alignment(task.align, config.compute, encoder, image_px, visible)

    def init(rng: Array) -> Params:
        drawn = mae.init(network, rng)
        return {task.model: drawn if aligned is None else {**drawn, "align": aligned.init(rng)}}

    def draw(rng: Array, images: int) -> Batch:
        seen, masked = masking.choose(rng, images, tokens, visible)
        return {"seen": seen, "masked": masked}

    def loss(params: Params, frozen: Params, batch: Batch) -> PerExample:
        mine, pixels = params[task.model], images.normalise(batch["image"])
        wanted = target(task, pixels, encoder.patch_px)
        given = pixels, batch["seen"], batch["masked"]
        if aligned is None:
            found: Any = model.apply({"params": mine}, *given)
            return compare(task, found, wanted, batch["masked"])
        found = model.apply({"params": mine}, *given, aligned.depth, method=Mae.rebuild_and_look)
        rebuilt = compare(task, found[0], wanted, batch["masked"])
        teacher = frozen[alignment.NAME]
        distance = aligned.loss(mine["align"], teacher, found[1], pixels, batch["seen"])
        return _weighed(aligned.config.weight, rebuilt, *distance)

    def models(params: Params, _: Start) -> dict[str, TrainedModel]:
        kept = {name: x for name, x in params[task.model].items() if name != "align"}
        return {task.model: TrainedModel(network, kept)}

    return Task(
        init=init,
        loss=loss,
        example=views.shapes(config.data.view),
        models=models,
        draw=draw,
        frozen={} if aligned is None else {alignment.NAME: aligned.frozen()},
        initial=lambda: _initial(task, network),
        trains=functools.partial(_trains, task),
    )


def _trains(task: MaePretrainConfig, path: str) -> bool:
    """`Task.trains`: both tables of positions are fixed, as upstream's."""
    return task.positions == "learned" or not path.endswith("/positions")


# ----------------------------------------------------------------------------------- the loss


def target(
    task: MaePretrainConfig, pixels_BHW3: Float[Array, "B H W 3"], patch_px: int
) -> Float[Array, "B N Y"]:
    """What is predicted of every patch."""
    patches_BhwY = patches.patchify(pixels_BHW3, patch_px)
    patches_BNY = patches_BhwY.reshape(len(pixels_BHW3), -1, patches_BhwY.shape[-1])
    return patches.standardise(patches_BNY) if task.target == "standardised" else patches_BNY


def compare(
    task: MaePretrainConfig,
    found_BNY: Float[Array, "B N Y"],
    target_BNY: Float[Array, "B N Y"],
    masked_BU: Int[Array, "B U"],
) -> PerExample:
    """The squared error, mean over patches and their values, and that of predicting the mean patch.

    Of the removed patches, or of all, as `task.loss_on` says.
    """
    if task.loss_on == "masked":
        found_BNY, target_BNY = (masking.gather(x, masked_BU) for x in (found_BNY, target_BNY))
    each_B = losses.feature_mse(found_BNY, target_BNY)
    baseline_B = losses.of_the_mean(losses.feature_mse, target_BNY)
    return PerExample(each_B, jnp.ones_like(each_B), {"baseline_loss": baseline_B})


def _weighed(
    weight: float, rebuilt: PerExample, distance_B: Float[Array, " B"], mean_B: Float[Array, " B"]
) -> PerExample:
    """The loss on pixels with the alignment's, and both apart; the baseline is of their sum."""
    baseline = rebuilt.metrics["baseline_loss"] + weight * mean_B
    metrics = {"pixel_loss": rebuilt.loss, "align_loss": distance_B, "baseline_loss": baseline}
    return PerExample(rebuilt.loss + weight * distance_B, rebuilt.weight, metrics)


# ------------------------------------------------------------------------------------- files


def _initial(task: MaePretrainConfig, network: MaeConfig) -> Start:
    """What `init_from` holds of the network; the rest is drawn.

    MissingError for a file that is not there, CheckpointError for one that does not fit.
    """
    if task.init_from is None:
        return Start()
    file, where = start.model_file(task.init_from, task.model), f"task.init_from {task.init_from}"
    plain_vit.require(file, network.encoder, where=where, model=task.model)
    return Start({task.model: {**plain_vit.taken(file), **_decoder(task, file)}})


def _decoder(task: MaePretrainConfig, file: ModelFile) -> Params:
    """Nothing of a file of the encoder alone."""
    known = file.config.decoder if isinstance(file.config, MaeConfig) else None
    if known is None:
        return {}
    if known != task.decoder:
        raise CheckpointError(
            f"task.init_from {task.init_from} holds another decoder than task.decoder: "
            f"{load.differences(known, task.decoder)}; write --task.decoder.* as the file has them"
        )
    return {name: file.params[name] for name in _DECODER}
