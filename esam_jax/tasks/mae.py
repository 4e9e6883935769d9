"""MAE: a ViT rebuilds the pixels of the patches it has not seen (arXiv:2111.06377).

What SAMI is compared with (arXiv:2312.00863, table 1): the same views, masking and optimiser, but
the target needs no teacher. As upstream models_mae.py computes it.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from esam_jax.config import MaeConfig, MaePretrainConfig, RunConfig, VitConfig
from esam_jax.convert import load
from esam_jax.convert.families import timm_vit
from esam_jax.convert.model_folder import ModelFile
from esam_jax.data import views
from esam_jax.errors import CheckpointError, ConfigError
from esam_jax.models import named
from esam_jax.models.pretrain import mae
from esam_jax.models.pretrain.mae import Mae
from esam_jax.ops import images, losses, masking, patches
from esam_jax.tasks import start
from esam_jax.tasks.task import Start, Task, TrainedModel
from esam_jax.typing import Batch, Params, PerExample

# Parts of a model with a decoder, beside encoder, class token and norm.
_DECODER = ("embed", "mask_token", "decoder", "head")


def build(config: RunConfig) -> Task:
    """The MAE task of a run; ConfigError unless its encoder is a plain ViT of the view's size."""
    task = config.task
    assert isinstance(task, MaePretrainConfig)
    network = _network(task, config.data.view.image_px)
    model = Mae(network, config.compute)
    tokens = network.encoder.pretrain_grid**2
    visible = masking.visible_tokens(tokens, task.mask_ratio)

    def draw(rng: Array, images: int) -> Batch:
        seen, masked = masking.choose(rng, images, tokens, visible)
        return {"seen": seen, "masked": masked}

    def loss(params: Params, frozen: Params, batch: Batch) -> PerExample:
        del frozen  # nothing is
        pixels, masked = images.normalise(batch["image"]), batch["masked"]
        found = model.apply({"params": params[task.model]}, pixels, batch["seen"], masked)
        assert isinstance(found, jax.Array)
        return _of_pixels(task, found, _target(task, network, pixels), masked)

    def models(params: Params, _: Start) -> dict[str, TrainedModel]:
        return {task.model: TrainedModel(network, params[task.model])}

    return Task(
        init=lambda key: {task.model: mae.init(network, key)},
        loss=loss,
        example=views.shapes(config.data.view),
        models=models,
        draw=draw,
        initial=lambda: _initial(task, network),
        trains=functools.partial(_trains, task),
    )


def _network(task: MaePretrainConfig, image_px: int) -> MaeConfig:
    encoder = named.model(task.model).encoder
    if not isinstance(encoder, VitConfig):
        raise ConfigError(
            f"task.model is {task.model!r}, which has no plain ViT encoder: choose an mae_* model"
        )
    if encoder.pretrain_px != image_px:
        raise ConfigError(
            f"data.view.image_px is {image_px}, but the position table of {task.model!r} was made "
            f"for {encoder.pretrain_px}: write --data.view.image-px {encoder.pretrain_px}"
        )
    return MaeConfig(encoder=timm_vit.pretrained(encoder), decoder=task.decoder)


def _trains(task: MaePretrainConfig, path: str) -> bool:
    """`Task.trains`: both tables of positions are fixed, as upstream's."""
    return task.positions == "learned" or not path.endswith("/positions")


# ----------------------------------------------------------------------------------- the loss


def _target(
    task: MaePretrainConfig, network: MaeConfig, pixels_BHW3: Float[Array, "B H W 3"]
) -> Float[Array, "B N Y"]:
    patches_BhwY = patches.patchify(pixels_BHW3, network.encoder.patch_px)
    patches_BNY = patches_BhwY.reshape(len(pixels_BHW3), -1, patches_BhwY.shape[-1])
    return patches.standardise(patches_BNY) if task.target == "standardised" else patches_BNY


def _of_pixels(
    task: MaePretrainConfig,
    found_BNY: Float[Array, "B N Y"],
    target_BNY: Float[Array, "B N Y"],
    masked_BU: Int[Array, "B U"],
) -> PerExample:
    """The squared error, and that of predicting the mean patch everywhere."""
    if task.loss_on == "masked":
        found_BNY, target_BNY = (masking.gather(x, masked_BU) for x in (found_BNY, target_BNY))
    each_B = losses.feature_mse(found_BNY, target_BNY)
    baseline_B = losses.of_the_mean(losses.feature_mse, target_BNY)
    return PerExample(each_B, jnp.ones_like(each_B), {"baseline_loss": baseline_B})


# ------------------------------------------------------------------------------------- files


def _initial(task: MaePretrainConfig, network: MaeConfig) -> Start:
    """What `init_from` holds of the network; the rest is drawn.

    MissingError for a file that is not there, CheckpointError for one that does not fit.
    """
    if task.init_from is None:
        return Start()
    file = start.model_file(task.init_from, task.model)
    found, wanted = file.config.encoder, network.encoder
    known = timm_vit.pretrained(found) if isinstance(found, VitConfig) else found
    if known != wanted:
        raise CheckpointError(
            f"task.init_from {task.init_from} holds another encoder than {task.model!r}: "
            f"{load.differences(known, wanted)}; name the model that it holds, or other weights "
            "to start from"
        )
    return Start({task.model: _taken(task, file)})


def _taken(task: MaePretrainConfig, file: ModelFile) -> Params:
    """The encoder with its class token and norm, and the decoder where there is one of this size."""
    encoder = {name: x for name, x in file.params["encoder"].items() if name != "neck"}
    beside = {**timm_vit.beside(file.unused), **file.params}  # a SAMI run keeps them so
    taken = {"encoder": encoder} | {
        name: beside[name] for name in ("class_token", "norm") if name in beside
    }
    if not isinstance(file.config, MaeConfig) or file.config.decoder is None:
        return taken
    if file.config.decoder != task.decoder:
        raise CheckpointError(
            f"task.init_from {task.init_from} holds another decoder than task.decoder: "
            f"{load.differences(file.config.decoder, task.decoder)}; write --task.decoder.* as it "
            "has them"
        )
    return taken | {name: file.params[name] for name in _DECODER}
