"""SAMI: students reconstruct a frozen teacher's features from a quarter of the patches.

arXiv:2312.00863, sections 3.2 and 4.1. What the paper leaves open (the teacher's input size, the
layer whose features are the target) is a config value; `TeacherConfig` names the choices.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from esam_jax.config import RunConfig, SamConfig, SamiConfig, VitConfig
from esam_jax.convert import source
from esam_jax.errors import CheckpointError, ConfigError
from esam_jax.models import efficient_sam, variants
from esam_jax.models.sam_vit import SamVitEncoder
from esam_jax.models.sami import Sami
from esam_jax.ops import images, losses, masking, positions
from esam_jax.tasks.task import Task, TrainedModel
from esam_jax.typing import Batch, Params, PerExample

RANDOM_TEACHER_SEED = 1
UNTRAINED_SEED = 2
# SAMI ends with the encoder's trunk; everything behind it starts anew in fine-tuning.
UNTRAINED = ("encoder/neck", "prompt", "decoder")


def build(config: RunConfig) -> Task:
    """The SAMI task of a run; ConfigError, CheckpointError or MissingError before any work."""
    task = config.task
    assert isinstance(task, SamiConfig)
    teacher_config = variants.sam(task.teacher.model)
    students = {name: variants.sam(name) for name in task.students}
    image_px = config.data.view.image_px
    for name, student in students.items():
        _check_student(name, student, teacher_config, image_px, task)
    teacher = SamVitEncoder(teacher_config.encoder, config.compute)
    target_width = (
        teacher_config.encoder.neck_width
        if task.teacher.features == "neck"
        else teacher_config.encoder.width
    )
    networks = {
        name: Sami(student.encoder, task.decoder, target_width, config.compute)
        for name, student in students.items()
    }
    weights = _open_teacher(task, teacher_config)

    def init(rng: Array) -> Params:
        # The parameters do not depend on the image, so one will do.
        pixels, tokens = (
            jnp.zeros((1, image_px, image_px, 3)),
            jnp.arange(_tokens(image_px, students)),
        )
        visible = _visible(tokens.size, task.mask_ratio)
        order = tokens[None]
        return {
            name: network.init(
                jax.random.fold_in(rng, i), pixels, order[:, :visible], order[:, visible:]
            )["params"]
            for i, (name, network) in enumerate(networks.items())
        }

    def loss(params: Params, frozen: Params, batch: Batch, rng: Array) -> PerExample:
        pixels = images.normalise(batch["image"])
        any_student = next(iter(students.values())).encoder
        grid = image_px // any_student.patch_px
        target = _teacher_features(teacher, frozen["teacher"], pixels, grid, task)
        # One draw for all students: they see the same patches of the same pictures.
        visible, masked, _ = masking.choose(
            rng, pixels.shape[0], grid * grid, _visible(grid * grid, task.mask_ratio)
        )
        compare = losses.feature_mse if task.loss == "mse" else losses.feature_cosine
        each = {}
        for name, network in networks.items():
            prediction = network.apply({"params": params[name]}, pixels, visible, masked)
            each[name] = compare(
                prediction.reshape(target.shape[0], grid * grid, -1),
                target.reshape(target.shape[0], grid * grid, -1),
            )
        total = functools.reduce(jnp.add, each.values())
        metrics = {f"loss/{name}": value for name, value in each.items()} if len(each) > 1 else {}
        return PerExample(total, jnp.ones_like(total), metrics)

    def load_frozen() -> Params:
        if weights is not None:
            return {"teacher": weights}
        pixels = jnp.zeros((1, image_px, image_px, 3))
        rng = jax.random.key(RANDOM_TEACHER_SEED)
        return {"teacher": jax.jit(teacher.init)(rng, pixels)["params"]}

    def models(params: Params) -> dict[str, TrainedModel]:
        return {
            name: TrainedModel(student, _whole_model(student, params[name]), UNTRAINED)
            for name, student in students.items()
        }

    return Task(init=init, loss=loss, load_frozen=load_frozen, initial=lambda: None, models=models)


def _check_student(
    name: str, student: SamConfig, teacher: SamConfig, image_px: int, task: SamiConfig
) -> None:
    encoder = student.encoder
    if not isinstance(encoder, VitConfig):
        raise ConfigError(
            f"task.students names {name!r}, which has no plain ViT encoder: choose an "
            "efficientsam_* model"
        )
    if encoder.pretrain_px != image_px:
        raise ConfigError(
            f"data.view.image_px is {image_px}, but the position table of {name!r} was made for "
            f"{encoder.pretrain_px}: use that size"
        )
    if task.teacher.view == "native" and teacher.encoder.patch_px != encoder.patch_px:
        raise ConfigError(
            f"task.teacher.model {task.teacher.model!r} has patches of {teacher.encoder.patch_px} "
            f"px and {name!r} of {encoder.patch_px} px, so their tokens do not pair: choose "
            "another teacher or --task.teacher.view enlarged"
        )


def _open_teacher(task: SamiConfig, config: SamConfig) -> Params | None:
    """The teacher's encoder parameters, or None for a random one."""
    weights = task.teacher.weights
    if weights is None:
        raise ConfigError(
            "task.teacher.weights is not set: SAMI needs a trained teacher. Give "
            "--task.teacher.weights FILE (a SAM checkpoint or model folder), or the word random "
            "for a dry run"
        )
    if weights == "random":
        return None
    file = source.load(weights)
    if file.config.encoder != config.encoder:
        raise CheckpointError(
            f"{weights} holds another image encoder than task.teacher.model "
            f"{task.teacher.model!r}: {_differences(file.config.encoder, config.encoder)}; name "
            "the model that the file holds"
        )
    return file.params["encoder"]


def _differences(found: object, wanted: object) -> str:
    if type(found) is not type(wanted):
        return f"kind {type(found).__name__} instead of {type(wanted).__name__}"
    fields = dataclasses.fields(found)  # pyright: ignore[reportArgumentType]
    pairs = [(f.name, getattr(found, f.name), getattr(wanted, f.name)) for f in fields]
    return ", ".join(f"{name} {a} instead of {b}" for name, a, b in pairs if a != b)


def _tokens(image_px: int, students: dict[str, SamConfig]) -> int:
    grid = image_px // next(iter(students.values())).encoder.patch_px
    return grid * grid


def _visible(tokens: int, mask_ratio: float) -> int:
    """MAE's rounding (models_mae.py, random_masking): 49 of 196 at a ratio of 0.75."""
    return max(1, int(tokens * (1 - mask_ratio)))


def _teacher_features(
    teacher: SamVitEncoder,
    params: Params,
    pixels: Float[Array, "B H W 3"],
    grid: int,
    task: SamiConfig,
) -> Float[Array, "B h w T"]:
    """Targets on the students' grid: float32, without gradient."""
    if task.teacher.view == "enlarged":
        side = teacher.config.image_px
        pixels = positions.bilinear_resize(pixels, side, side)
    method = SamVitEncoder.trunk if task.teacher.features == "trunk" else None
    features = teacher.apply({"params": params}, pixels, method=method)
    assert isinstance(features, jax.Array)
    if features.shape[1:3] != (grid, grid):
        features = images.area_pool(features.astype(jnp.float32), grid, grid)
    return jax.lax.stop_gradient(features.astype(jnp.float32))


def _whole_model(config: SamConfig, params: Params) -> Params:
    """The trained trunk inside a whole model whose other parts are as initialised."""
    rng = jax.random.key(UNTRAINED_SEED)
    whole = jax.jit(functools.partial(efficient_sam.init, config))(rng)
    return {**whole, "encoder": {**params["encoder"], "neck": whole["encoder"]["neck"]}}
