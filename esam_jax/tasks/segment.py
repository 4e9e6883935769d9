"""Promptable segmentation: an encoder and a mask decoder learn masks from prompts.

SAM, section A of arXiv:2304.02643, as EfficientSAM's fine-tuning follows it (arXiv:2312.00863,
section 4.1): three masks for one prompt, and only the best of them is trained. `tasks/rounds.py`
has what follows on the first prompt.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import reduce
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from esam_jax.config import (
    EvaluateConfig,
    FramedConfig,
    PromptedConfig,
    RunConfig,
    SamConfig,
    SegmentConfig,
)
from esam_jax.data import views
from esam_jax.errors import ConfigError
from esam_jax.evaluate import prompts
from esam_jax.models import encoders, flops, lora, named
from esam_jax.models.parts import batch_norm, stack
from esam_jax.models.parts.batch_norm import Moments
from esam_jax.models.sam import network
from esam_jax.models.sam.network import Sam
from esam_jax.ops import drop_path, images, losses, positions
from esam_jax.tasks import rounds, start, text_prompt
from esam_jax.tasks.task import Measure, Start, Task, TrainedModel
from esam_jax.tasks.text_prompt import TextPrompt
from esam_jax.typing import PADDING_XY, Batch, Params, PerExample

# Number of the key of drop path, beside the two that `rounds.draw` splits off: those are 0 and 1.
_DROP_PATH = 2
_PAIRS_STREAM = 1  # apart from the key that the network is drawn from


def build(config: RunConfig) -> Task:
    """The segmentation task; ConfigError for a view that does not fit the model."""
    task, view = config.task, config.data.view
    assert isinstance(task, SegmentConfig) and isinstance(view, PromptedConfig)
    text, sam_config = text_prompt.of(task.text, config.compute, named.sam(task.model))
    check_view(view, task.model, sam_config)
    _check_choices(task, sam_config, config.accumulate)
    model = Sam(sam_config, config.compute)

    def compare(packed: Array, valid: Array, logits: Array, scores: Array) -> PerExample:
        return round_loss(task, logits, scores, images.unpack_bits(packed), valid)

    if config.compute.remat == "blocks":
        # Several maps as large as the masks would be kept for the backward pass.
        compare = jax.checkpoint(compare)

    def complete(params: Params) -> Params:
        return lora.merge(params[task.model], task.lora_alpha / task.lora_rank)

    def loss(params: Params, frozen: Params, batch: Batch) -> PerExample:
        masks, valid = batch["masks"], batch["valid"]
        variables = {"params": complete(params)}
        embedding, moments = _embed(task, model, variables, batch)

        def target() -> Array:
            return _target(task, images.unpack_bits(masks), sam_config.low_res_px) > 0.5

        told, batch = _first(text, sam_config, frozen, batch)

        def decode(points: Array, labels: Array, mask: Array | None) -> tuple[Array, Array]:
            prompt = points, labels, mask, told
            logits, scores = model.apply(variables, embedding, *prompt, method=Sam.decode)
            assert isinstance(logits, jax.Array) and isinstance(scores, jax.Array)
            return logits, scores

        each_round = functools.partial(compare, masks, valid)
        each = rounds.loss(task, sam_config, decode, each_round, target, batch)
        return dataclasses.replace(each, moments=moments)

    def models(params: Params, start: Start) -> dict[str, TrainedModel]:
        return {task.model: TrainedModel(sam_config, complete(params), start.untrained)}

    def measurement(evaluate: EvaluateConfig, mesh: Mesh) -> Measure:
        measure = prompts.measurement(model, evaluate, mesh)
        return lambda params, _: with_mean(measure(complete(params)))

    return Task(
        init=functools.partial(_init, task, sam_config),
        loss=loss,
        example=views.shapes(view),
        models=models,
        draw=functools.partial(_draw, task, text, sam_config, view.masks),
        initial=lambda: start.read(task, sam_config),
        resumed=lambda: Start(untrained=start.untrained(task, sam_config)),
        measurement=measurement,
        frozen=text_prompt.frozen(text, view.masks),
        miscounted=flops.miscounted(sam_config.encoder) + text_prompt.miscounted(text, view.masks),
        trains=lambda path: start.trains(task, path) and not batch_norm.is_statistic(path),
        passes=_passes(task, sam_config),
    )


def _draw(
    task: SegmentConfig,
    text: TextPrompt | None,
    sam_config: SamConfig,
    queries: int,
    key: Array,
    images: int,
) -> Batch:
    """What `rounds.draw` gives, and the uniform numbers by which blocks lose their branches and
    objects are shown to CLIP."""
    drawn = dict(rounds.draw(task, queries, key, images))
    if text is not None:
        drawn |= text.draw(queries, key, images)
    if task.drop_path:
        shape = (images, sam_config.encoder.depth, 2)
        drawn["drop_path"] = jax.random.uniform(jax.random.fold_in(key, _DROP_PATH), shape)
    return drawn


def _first(
    text: TextPrompt | None, sam_config: SamConfig, frozen: Params, batch: Batch
) -> tuple[Float[Array, "B Q T"] | None, Batch]:
    """The first prompts where they are objects as CLIP sees them, and the batch with free slots in
    place of its points and boxes."""
    if text is None:
        return None, batch
    shown = images.unpack_bits(batch["masks"])
    told = text.prompts(frozen[text_prompt.NAME], batch["image"], shown, batch["text"])
    points = jnp.full_like(batch["points"], PADDING_XY)
    labels = jnp.full_like(batch["labels"], rounds.free_label(sam_config))
    return told, {**batch, "points": points, "labels": labels}


def with_mean(measured: dict[str, Any]) -> dict[str, Any]:
    """With `miou`, the mean of boxes and clicks, by which one checkpoint is better than another."""
    if not {"box_miou", "point_miou"} <= measured.keys():
        return measured
    mean = (measured["box_miou"] + measured["point_miou"]) / 2
    return {**measured, "miou": round(mean, 6)}


def _init(task: SegmentConfig, sam_config: SamConfig, rng: Array) -> Params:
    params = network.init(sam_config, rng)
    if task.train == "lora":
        pairs = lora.init(params, task.lora_rank, jax.random.fold_in(rng, _PAIRS_STREAM))
        params = {**params, lora.BRANCH: pairs}
    return {task.model: params}


def _embed(
    task: SegmentConfig, model: Sam, variables: Params, batch: Batch
) -> tuple[Array, Moments]:
    """The image embedding, and the statistics of batch norms that follow the batch.

    A frozen encoder keeps nothing for the backward pass.
    """
    pixels = images.normalise(batch["image"])
    scales = drop_path.scales(batch["drop_path"], task.drop_path) if task.drop_path else None
    moments: Moments = {}
    if task.batch_norm == "batch":
        embedding, found = model.apply(variables, pixels, scales, method=Sam.encode_jointly)
        moments = {task.model: found}
    elif task.train != "decoder":
        embedding = model.apply(variables, pixels, scales, method=Sam.encode)
    else:
        with stack.forward_only():
            embedding = model.apply(variables, pixels, method=Sam.encode)
    assert isinstance(embedding, jax.Array)
    return embedding, moments


def _passes(task: SegmentConfig, sam_config: SamConfig) -> Callable[[int], int]:
    """`Task.passes`: backward stops at a frozen encoder, or has hardly a parameter of its own."""
    if task.train == "decoder":
        encoder = flops.encoder(sam_config.encoder, sam_config.image_px)
        return lambda forward: 3 * forward - 2 * encoder
    return lambda forward: (2 if task.train == "lora" else 3) * forward


def round_loss(
    task: SegmentConfig,
    logits_BQMll: Float[Array, "B Q M l l"],
    scores_BQM: Float[Array, "B Q M"],
    masks_BQHW: Bool[Array, "B Q H W"],
    valid_BQ: Float[Array, "B Q"],
) -> PerExample:
    """Loss of one round of prompting, per query; `rounds.loss` sums it over all of them.

    Weighted focal + dice of every candidate, the lowest taken; the predicted IoU is compared with
    the true one (logits > 0 against the mask, without gradient). A query weighs nothing when it is
    not valid, or when its mask is too thin to cover half of any low-resolution cell.
    """
    target_BQss = _target(task, masks_BQHW, logits_BQMll.shape[-1])
    weight_BQ = valid_BQ * (target_BQss > 0.5).any((-2, -1))
    focal, dice, iou = _compare(task, jax.lax.stop_gradient(logits_BQMll), target_BQss)
    best_BQ1 = jnp.argmin(_mask_loss(task, focal, dice), axis=-1, keepdims=True)
    # The best one again, now with a gradient: maps as large as the masks are kept for it alone.
    # Selecting instead of gathering keeps a scatter out of the gradient.
    is_best_BQM = jnp.arange(iou.shape[-1]) == best_BQ1
    best_BQ1ll = jnp.where(is_best_BQM[..., None, None], logits_BQMll, 0).sum(2, keepdims=True)
    focal, dice, best_iou = (x[..., 0] for x in _compare(task, best_BQ1ll, target_BQss))

    score_loss_BQM = jnp.square(scores_BQM.astype(jnp.float32) - iou)
    every = task.scored_masks == "all"
    score_loss = score_loss_BQM.mean(-1) if every else _at(best_BQ1, score_loss_BQM)
    chosen_BQ1 = jnp.argmax(scores_BQM, axis=-1, keepdims=True)
    return PerExample(
        loss=_mask_loss(task, focal, dice) + task.iou_weight * score_loss,
        weight=weight_BQ,
        metrics={
            "focal": focal,
            "dice": dice,
            "score_mse": score_loss,
            "best_iou": best_iou,
            "chosen_iou": _at(chosen_BQ1, iou),
        },
    )


def _mask_loss(task: SegmentConfig, focal: Array, dice: Array) -> Array:
    return task.focal_weight * focal + task.dice_weight * dice


def _at(index_BQ1: Array, values_BQM: Array) -> Array:
    return jnp.take_along_axis(values_BQM, index_BQ1, axis=-1)[..., 0]


def _target(
    task: SegmentConfig, masks_BQHW: Bool[Array, "B Q H W"], side: int
) -> Float[Array, "B Q s s"]:
    """0/1 masks at the size where they are compared; `side` is that of the logits."""
    masks_BQHW = masks_BQHW.astype(jnp.float32)
    if task.loss_at == "image":
        return masks_BQHW
    covered = reduce(masks_BQHW, "B Q (h y) (w x) -> B Q h w", "mean", h=side, w=side)
    # A cell belongs to the mask that covers half of it or more.
    return (covered >= 0.5).astype(jnp.float32)


def _compare(
    task: SegmentConfig,
    logits_BQMll: Float[Array, "B Q M l l"],
    target_BQss: Float[Array, "B Q s s"],
) -> tuple[Float[Array, "B Q M"], Float[Array, "B Q M"], Float[Array, "B Q M"]]:
    """Focal loss, dice loss and true IoU of each mask; the IoU has no gradient."""
    logits, side_px = logits_BQMll.astype(jnp.float32), target_BQss.shape[-1]
    if task.loss_at == "image":
        logits = positions.bilinear_resize(logits[..., None], side_px, side_px)[..., 0]
    target = jnp.broadcast_to(target_BQss[:, :, None], logits.shape)
    iou = losses.mask_iou(logits > 0, target > 0.5)
    return losses.focal(logits, target), losses.dice(logits, target), iou


def _check_choices(task: SegmentConfig, sam_config: SamConfig, accumulate: int) -> None:
    if task.clicks and task.click_labels == "both" and sam_config.decoder.background == "none":
        raise ConfigError(
            f"task.clicks is {task.clicks} of both labels, but {task.model!r} takes no background "
            "points: write --task.click-labels foreground"
        )
    if task.text is not None and task.train == "lora":
        raise ConfigError(
            "task.text is given, but task.train is 'lora', which leaves the prompt encoder as it "
            "is: write --task.train all or decoder"
        )
    if task.batch_norm == "batch" and not encoders.has_batch_norm(sam_config.encoder):
        raise ConfigError(
            f"task.batch_norm is 'batch', but the encoder of {task.model!r} has no batch norms: "
            "write --task.batch-norm stored"
        )
    if task.batch_norm == "batch" and accumulate > 1:
        raise ConfigError(batch_norm.cut(accumulate))
    if task.batch_norm == "batch" and task.train != "all":
        raise ConfigError(
            f"task.batch_norm is 'batch', but task.train is {task.train!r}, which leaves the norms "
            "as they are: write --task.batch-norm stored"
        )
    if task.drop_path and task.train == "decoder":
        raise ConfigError(
            f"task.drop_path is {task.drop_path}, but task.train is 'decoder', and a frozen "
            "encoder is not trained by leaving blocks out: write --task.drop-path 0"
        )


def check_view(view: FramedConfig | PromptedConfig, model: str, sam_config: SamConfig) -> None:
    """ConfigError unless the view shows pictures as the model takes them."""
    if view.image_px != sam_config.image_px:
        raise ConfigError(
            f"data.view.image_px is {view.image_px}, but {model!r} takes {sam_config.image_px}: "
            f"write --data.view.image-px {sam_config.image_px}"
        )
    if view.fit != sam_config.fit:
        raise ConfigError(
            f"data.view.fit is {view.fit!r}, but {model!r} was wired for {sam_config.fit!r}: "
            f"write --data.view.fit {sam_config.fit}"
        )
