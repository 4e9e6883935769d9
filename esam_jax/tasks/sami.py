"""SAMI: students reconstruct a frozen teacher's features from a quarter of the patches.

arXiv:2312.00863, sections 3.2 and 4.1. What the paper leaves open (the teacher's input size, the
layer whose features are the target) is a config value; `TeacherConfig` names the choices.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from esam_jax.config import RunConfig, SamConfig, SamiConfig, SamVitConfig, VitConfig
from esam_jax.convert import load
from esam_jax.convert.families import timm_vit
from esam_jax.errors import CheckpointError, ConfigError
from esam_jax.models import named
from esam_jax.models.encoders.sam_vit import SamVitEncoder
from esam_jax.models.pretrain.sami import Sami
from esam_jax.models.sam import network
from esam_jax.ops import images, losses, masking, positions
from esam_jax.tasks import start
from esam_jax.tasks.task import BEHIND_TRUNK, Task, TrainedModel
from esam_jax.typing import Batch, Params, PerExample

RANDOM_TEACHER_SEED = 1
UNTRAINED_SEED = 2


def build(config: RunConfig) -> Task:
    """The SAMI task of a run; ConfigError, CheckpointError or MissingError before any work."""
    task = config.task
    assert isinstance(task, SamiConfig)
    image_px = config.data.view.image_px
    teacher_config = _teacher_config(task.teacher.model)
    students = {name: _student_config(name, image_px) for name in task.students}
    grid = _common_grid(students, teacher_config, image_px, task)
    visible = visible_tokens(grid * grid, task.mask_ratio)
    teacher = SamVitEncoder(teacher_config, config.compute)
    neck = task.teacher.features == "neck"
    target_width = teacher_config.neck_width if neck else teacher_config.width
    networks = {
        name: Sami(encoder, task.decoder, target_width, config.compute)
        for name, encoder in students.items()
    }
    weights = _open_teacher(task, teacher_config)

    def init(rng: Array) -> Params:
        # The parameters do not depend on the image, so one will do.
        pixels, tokens = jnp.zeros((1, image_px, image_px, 3)), jnp.arange(grid * grid)[None]
        split = tokens[:, :visible], tokens[:, visible:]
        return {
            name: student.init(jax.random.fold_in(rng, i), pixels, *split)["params"]
            for i, (name, student) in enumerate(networks.items())
        }

    def draw(rng: Array, images: int) -> Batch:
        seen, masked = masking.choose(rng, images, grid * grid, visible)
        return {"seen": seen, "masked": masked}

    def features(frozen: Params, image: Array) -> Array:
        return _teacher_features(teacher, frozen["teacher"], images.normalise(image), grid, task)

    def loss(params: Params, frozen: Params, batch: Batch) -> PerExample:
        pixels = images.normalise(batch["image"])
        target = features(frozen, batch["image"])
        compare = losses.feature_mse if task.loss == "mse" else losses.feature_cosine
        each: dict[str, Array] = {}
        for name, student in networks.items():
            # All students see the same patches of the same pictures.
            split = batch["seen"], batch["masked"]
            prediction = student.apply({"params": params[name]}, pixels, *split)
            assert isinstance(prediction, jax.Array)
            each[name] = compare(prediction, target)
        total = functools.reduce(jnp.add, each.values())
        metrics = {f"loss/{name}": value for name, value in each.items()} if len(each) > 1 else {}
        return PerExample(total, jnp.ones_like(total), metrics)

    def load_frozen() -> Params:
        if weights is not None:
            return {"teacher": weights}
        pixels = jnp.zeros((1, image_px, image_px, 3))
        rng = jax.random.key(RANDOM_TEACHER_SEED)
        return {"teacher": jax.jit(teacher.init)(rng, pixels)["params"]}

    def initial() -> Params | None:
        if task.init_from is None:
            return None
        return {name: {"encoder": start.trunk(task.init_from, name)} for name in students}

    def models(params: Params) -> dict[str, TrainedModel]:
        return {name: _trained_model(named.sam(name), params[name]) for name in students}

    return Task(
        init=init,
        loss=loss,
        load_frozen=load_frozen,
        initial=initial,
        models=models,
        draw=draw,
        features=features,
    )


def _teacher_config(name: str) -> SamVitConfig:
    encoder = named.sam(name).encoder
    if not isinstance(encoder, SamVitConfig):
        raise ConfigError(
            f"task.teacher.model is {name!r}, which has no SAM encoder: choose a sam_* model"
        )
    return encoder


def _student_config(name: str, image_px: int) -> VitConfig:
    encoder = named.sam(name).encoder
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
    return encoder


def _common_grid(
    students: dict[str, VitConfig], teacher: SamVitConfig, image_px: int, task: SamiConfig
) -> int:
    """Side of the token grid that all students share, and the teacher too unless it is pooled."""
    sizes = {name: encoder.patch_px for name, encoder in students.items()}
    if task.teacher.view == "native":
        sizes[task.teacher.model] = teacher.patch_px
    if len(set(sizes.values())) > 1:
        raise ConfigError(
            f"patches are {', '.join(f'{px} px in {name}' for name, px in sizes.items())}, so "
            "their tokens do not pair: choose models that agree, or --task.teacher.view enlarged "
            "for a teacher that does not"
        )
    return image_px // next(iter(sizes.values()))


def _open_teacher(task: SamiConfig, encoder: SamVitConfig) -> Params | None:
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
    file = load.model_file(weights)
    if file.config.encoder != encoder:
        raise CheckpointError(
            f"{weights} holds another image encoder than task.teacher.model "
            f"{task.teacher.model!r}: {load.differences(file.config.encoder, encoder)}; name "
            "the model that the file holds"
        )
    return file.params["encoder"]


def visible_tokens(tokens: int, mask_ratio: float) -> int:
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


def _trained_model(config: SamConfig, params: Params) -> TrainedModel:
    """The trained trunk inside a whole model whose other parts are as initialised.

    The class token and the last norm have no place in it, but in a ViT of timm's.
    """
    rng = jax.random.key(UNTRAINED_SEED)
    whole = jax.jit(functools.partial(network.init, config))(rng)
    whole = {**whole, "encoder": {**params["encoder"], "neck": whole["encoder"]["neck"]}}
    return TrainedModel(config, whole, BEHIND_TRUNK, timm_vit.kept(params))
