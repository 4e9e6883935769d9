"""Rounds of prompting: each click is drawn where the mask before it is wrong.

SAM's interactive training (arXiv:2304.02643, section A): a first prompt, clicks that correct it one
at a time, and rounds without a new click, which only look at their own mask again. Shapes are those
of the last round in all of them, and each is computed again for its gradient, so that memory hardly
grows with their number.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from esam_jax import typing as legend
from esam_jax.config import SamConfig, SegmentConfig
from esam_jax.ops import pixels, positions
from esam_jax.typing import Batch, PerExample

# (points, labels, mask prompt or None) -> logits and predicted IoU of every mask token
Decode = Callable[[Array, Array, Array | None], tuple[Array, Array]]
# (logits, predicted IoU) of the masks that a round answers with -> its loss
Compare = Callable[[Array, Array], PerExample]
Target = Callable[[], Array]  # -> the true masks; called where they are used, and so not kept


def later(task: SegmentConfig) -> int:
    """Rounds after the first."""
    return task.clicks + task.repeats


def draw(task: SegmentConfig, queries: int, key: Array, images: int) -> Batch:
    """The random choices of one update, a row for each image.

    `click_bits` choose the pixel of each round and query; `repeat_before` is the click before which
    the round without one takes place.
    """
    if not later(task):
        return {}
    where, which = jax.random.split(key)
    bits = jax.random.bits(where, (images, later(task), queries), jnp.uint32)
    return {
        "click_bits": bits,
        "repeat_before": jax.random.randint(which, (images,), 0, max(1, task.clicks)),
    }


def has_click(task: SegmentConfig, repeat_before_B: Int[Array, " B"]) -> Bool[Array, "B _"]:
    """Which of the later rounds add a click: all but the last, and but one of those before it."""
    number = jnp.arange(later(task))
    if task.repeats < 2:
        return jnp.broadcast_to(number < task.clicks, (len(repeat_before_B), later(task)))
    return (number != repeat_before_B[:, None]) & (number < later(task) - 1)


def loss(
    task: SegmentConfig,
    config: SamConfig,
    decode: Decode,
    compare: Compare,
    target: Target,
    batch: Batch,
) -> PerExample:
    """Loss of all rounds of every query, their sum or mean, and the metrics of the first.

    `batch` has the first prompts and what `draw` gives. Clicks are drawn at the size of `target`.
    `last_iou` is the true IoU of the mask that the last round would answer with.
    """
    points, labels = with_slots(task, config, batch["points"], batch["labels"])
    logits, scores = decode(points, labels, None)
    # One prompt leaves doubt about the object: the candidates answer. Token 0 is for several.
    first = compare(logits[:, :, 1:], scores[:, :, 1:])
    if not later(task):
        return first
    remembers = config.decoder.mask_prompts == "learned"
    answers = slice(0, 1) if task.answers == "single" else slice(1, None)

    def one_round(
        before: tuple[Array, Array, Array], given: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array, Array], PerExample]:
        points, labels, shown = before
        bits_BQ, adds_B = given
        points, labels = with_click(task, config, points, labels, shown, target(), bits_BQ, adds_B)
        logits, scores = decode(points, labels, shown if remembers else None)
        logits, scores = logits[:, :, answers], scores[:, :, answers]
        each = compare(logits, scores)
        return (points, labels, chosen(logits, scores)), each

    started = points, labels, chosen(logits[:, :, 1:], scores[:, :, 1:])
    given = jnp.moveaxis(batch["click_bits"], 1, 0), has_click(task, batch["repeat_before"]).T
    _, each = jax.lax.scan(jax.checkpoint(one_round), started, given)
    total = first.loss + each.loss.sum(0)
    if task.rounds_as == "mean":
        total = total / (1 + later(task))
    metrics = {**first.metrics, "last_iou": each.metrics["chosen_iou"][-1]}
    return dataclasses.replace(first, loss=total, metrics=metrics)


def with_slots(
    task: SegmentConfig,
    config: SamConfig,
    points_BQP2: Float[Array, "B Q P 2"],
    labels_BQP: Int[Array, "B Q P"],
) -> tuple[Float[Array, "B Q _ 2"], Int[Array, "B Q _"]]:
    """First prompts with free slots for the clicks of all rounds.

    A model of fixed slots has as many as it has; further clicks find no room and are not made.
    """
    if not later(task):
        return points_BQP2, labels_BQP
    fixed, given = config.decoder.traits.fixed_slots, labels_BQP.shape[2]
    total = config.decoder.point_slots if fixed else given + task.clicks
    pad = ((0, 0), (0, 0), (0, total - given))
    return (
        jnp.pad(points_BQP2, (*pad, (0, 0)), constant_values=legend.PADDING_XY),
        jnp.pad(labels_BQP, pad, constant_values=free_label(config)),
    )


def with_click(
    task: SegmentConfig,
    config: SamConfig,
    points_BQP2: Float[Array, "B Q P 2"],
    labels_BQP: Int[Array, "B Q P"],
    logits_BQll: Float[Array, "B Q l l"],
    target_BQss: Bool[Array, "B Q s s"],
    bits_BQ: UInt32[Array, "B Q"],
    adds_B: Bool[Array, " B"],
) -> tuple[Float[Array, "B Q P 2"], Int[Array, "B Q P"]]:
    """Prompts with one click more in the first free slot, of the images that add one.

    Uniform over the pixels where mask and target differ, a foreground click in what is missing and
    a background click in what is too much; in the background where nothing is wrong. With
    foreground clicks alone: uniform over what is missing, over the target where nothing is.
    """
    side = target_BQss.shape[-1]
    inside = positions.bilinear_resize(logits_BQll[..., None], side, side)[..., 0] > 0
    missing, excess = target_BQss & ~inside, inside & ~target_BQss
    if task.click_labels == "foreground":
        wanted, otherwise = missing, target_BQss
    else:
        wanted, otherwise = missing | excess, ~target_BQss
    region = jnp.where(wanted.any((-2, -1), keepdims=True), wanted, otherwise)
    xy_BQ2, some_BQ = pixels.uniform(bits_BQ, region)
    hit = jnp.take_along_axis(target_BQss, xy_BQ2[..., 1, None, None], -2)
    hit = jnp.take_along_axis(hit, xy_BQ2[..., 0, None, None], -1)[..., 0, 0]
    label_BQ = jnp.where(hit, legend.FOREGROUND, legend.BACKGROUND)
    cell_px = config.image_px / side
    at_px = (xy_BQ2 + 0.5) * cell_px - 0.5  # whole numbers are the centres of pixels

    free_BQP = labels_BQP == free_label(config)
    adds_BQ = adds_B[:, None] & some_BQ & free_BQP.any(-1)
    slot_BQ1 = jnp.argmax(free_BQP, -1, keepdims=True)
    here_BQP = (jnp.arange(labels_BQP.shape[2]) == slot_BQ1) & adds_BQ[..., None]
    return (
        jnp.where(here_BQP[..., None], at_px[:, :, None].astype(points_BQP2.dtype), points_BQP2),
        jnp.where(here_BQP, label_BQ[..., None], labels_BQP),
    )


def chosen(
    logits_BQMll: Float[Array, "B Q M l l"], scores_BQM: Float[Array, "B Q M"]
) -> Float[Array, "B Q l l"]:
    """Logits of the mask with the highest predicted IoU, which the next round is shown.

    Without a gradient: a round learns to answer, not to be asked more easily.
    """
    best_BQ = jnp.argmax(scores_BQM, -1)
    shown = jnp.take_along_axis(logits_BQMll, best_BQ[..., None, None, None], 2)[:, :, 0]
    return jax.lax.stop_gradient(shown)


def free_label(config: SamConfig) -> int:
    """The label of a slot for a click that is not made yet."""
    return legend.PADDING if config.decoder.traits.fixed_slots else legend.NOTHING
