"""Distillation: a student's image encoder regresses the features of a frozen teacher.

MobileSAM (arXiv:2306.14289, section 3.2) trains its encoder so, on SAM's embedding at the full
input size, and takes SAM's prompt encoder and mask decoder over as they are. Pretraining by plain
feature distillation is the same with other values, and without a decoder.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from esam_jax.config import (
    DistillConfig,
    EvaluateConfig,
    FramedConfig,
    RunConfig,
    SamConfig,
)
from esam_jax.convert import load, provenance
from esam_jax.errors import CheckpointError, EsamError
from esam_jax.evaluate import embeddings, prompts
from esam_jax.models import flops
from esam_jax.models.sam import network
from esam_jax.ops import images, losses
from esam_jax.tasks import segment, start, stored
from esam_jax.tasks.student import DECODER, Student
from esam_jax.tasks.task import BEHIND_TRUNK, Measure, Start, Task, TrainedModel
from esam_jax.tasks.teacher import DRAWN
from esam_jax.typing import Batch, Params, PerExample

UNTRAINED_SEED = 2


def build(config: RunConfig) -> Task:
    """The distillation task; ConfigError for a student, teacher and view that do not fit."""
    task = config.task
    assert isinstance(task, DistillConfig)
    student = Student(task, config)
    teacher, model = student.teacher, student.model

    def loss(params: Params, frozen: Params, batch: Batch) -> PerExample:
        mine = params[task.student]
        pixels = images.normalise(batch["image"])
        embedding, found, moments = student.features(mine, pixels)
        moments = {task.student: {"encoder": moments}} if moments else {}
        if not task.feature_weight:
            masked = student.on_masks(mine, embedding, batch)
            return dataclasses.replace(masked, moments=moments)
        target = student.target(frozen, batch)
        compare = losses.FEATURES[task.loss]
        each_B = compare(found, target)
        metrics = {"feature_loss": each_B, "baseline_loss": losses.of_the_mean(compare, target)}
        if not student.learns_masks:
            return PerExample(each_B, jnp.ones_like(each_B), metrics, moments)
        masked = student.on_masks(mine, embedding, batch)
        # Every prompt of a picture stands for all of it.
        each_BQ, metrics = _for_each_prompt((each_B, metrics), masked.loss.shape)
        total = masked.loss + task.feature_weight * each_BQ
        return PerExample(total, masked.weight, {**masked.metrics, **metrics}, moments)

    def measurement(evaluate: EvaluateConfig, mesh: Mesh) -> Measure:
        return _measurement(student, evaluate, mesh)

    unused = student.is_stored or not task.feature_weight
    return Task(
        init=student.init,
        loss=loss,
        example=student.example,
        models=functools.partial(_models, student),
        frozen={} if unused else {"teacher": teacher.frozen(student.grid)},
        initial=lambda: _initial(student),
        resumed=lambda: _resumed(student),
        measurement=measurement,
        miscounted=flops.miscounted(model.encoder),
        trains=student.trains,
        passes=_passes(student),
    )


def _passes(student: Student) -> Callable[[int], int]:
    """`Task.passes`: a frozen decoder has no gradient of its own parameters."""
    if student.task.coupling != "semi":
        return lambda forward: 3 * forward
    encoder = flops.encoder(student.model.encoder, student.model.image_px)
    return lambda forward: 2 * forward + encoder


def _for_each_prompt(values: Any, shape: tuple[int, ...]) -> Any:
    return jax.tree.map(lambda x: jnp.broadcast_to(x[:, None], shape), values)


# ---------------------------------------------------------------------- files, and the measurement


def _initial(student: Student) -> Start:
    """The teacher's decoder and, of `init_from`, the student's encoder.

    MissingError for a file that is not there, CheckpointError for one that does not fit.
    """
    task = student.task
    params: Params = {}
    _check_stored(student, weights=True)
    if task.init_from is not None:
        taken = start.trunk if student.learns_trunk else start.encoder
        params = {"encoder": taken(task.init_from, task.student)}
    params |= _decoder(student)
    return Start({task.student: params} if params else {}, _untrained(student))


def _resumed(student: Student) -> Start:
    _check_stored(student, weights=False)
    return Start(untrained=_untrained(student))


def _check_stored(student: Student, *, weights: bool) -> None:
    """ConfigError where stored features are not those of this teacher, size and view."""
    part = student.teacher.frozen(student.grid)
    stored.require(student.run, part, student.target_shape, weights=weights)


def _decoder(student: Student) -> Params:
    weights = student.task.teacher.weights
    if not student.is_promptable or weights == DRAWN:
        return {}
    if weights is None:
        raise student.teacher.unnamed()
    file = load.model_file(weights)
    if not isinstance(file.config, SamConfig) or set(DECODER) & set(file.untrained):
        raise CheckpointError(
            f"task.teacher.weights {weights} holds no trained mask decoder: name a SAM, or write "
            "--task.coupling features"
        )
    found = file.config.decoder
    if found != student.model.decoder:
        raise CheckpointError(
            f"{weights} holds another mask decoder than task.teacher.model "
            f"{student.task.teacher.model!r}: "
            f"{load.differences(found, student.model.decoder)}; name the model that "
            "the file holds"
        )
    return {part: file.params[part] for part in DECODER}


def _untrained(student: Student) -> tuple[str, ...]:
    """Parts of the model that neither the teacher's training nor this run has trained."""
    if not student.is_promptable:
        return BEHIND_TRUNK if student.learns_trunk else DECODER
    weights = student.task.teacher.weights
    try:
        file = load.model_file(weights) if weights not in (None, DRAWN) else None
    except EsamError:  # of a run that resumes: nothing is claimed for what cannot be read
        return (*DECODER, provenance.SINGLE_MASK)
    return () if file is None else file.untrained


def _models(student: Student, params: Params, start: Start) -> dict[str, TrainedModel]:
    """`Task.models`; the head has no place in them."""
    name, model = student.task.student, dict(params[student.task.student])
    model.pop("head", None)
    if not student.is_promptable:
        draw = jax.jit(functools.partial(network.init, student.model))
        drawn = draw(jax.random.key(UNTRAINED_SEED))
        model = {**drawn, "encoder": {**drawn["encoder"], **model["encoder"]}}
    return {name: TrainedModel(student.model, model, start.untrained)}


def _measurement(student: Student, evaluate: EvaluateConfig, mesh: Mesh) -> Measure:
    """Box and point mIoU where there is a decoder, and the error of the features where there is a
    teacher."""
    task = student.task
    answers = prompts.measurement(student.sam, evaluate, mesh) if student.is_promptable else None

    def error(params: Params, frozen: Params, image: Array) -> Float[Array, " B"]:
        stored = dataclasses.replace(task, batch_norm="stored")
        pixels = images.normalise(image)
        found = dataclasses.replace(student, task=stored).features(params, pixels)[1]
        return losses.feature_mse(found, student.target(frozen, {"image": image}))

    view = student.run.data.view
    framed = FramedConfig(image_px=view.image_px, fit=student.model.fit)
    compare = embeddings.measurement(error, framed, evaluate, mesh)

    def measure(params: Params, frozen: Params) -> dict[str, Any]:
        mine, found = params[task.student], {}
        if answers is not None:
            model = {part: mine[part] for part in ("encoder", *DECODER)}
            found |= segment.with_mean(answers(model))
        if "teacher" in frozen:
            found |= compare(mine, frozen)
        return found

    return measure
