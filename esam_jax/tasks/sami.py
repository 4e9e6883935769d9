"""SAMI: students reconstruct a frozen teacher's features from a quarter of the patches.

arXiv:2312.00863, sections 3.2 and 4.1.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from esam_jax.config import RunConfig, SamConfig, SamiConfig, VitConfig
from esam_jax.convert.families import timm_vit
from esam_jax.errors import ConfigError
from esam_jax.models import named
from esam_jax.models.pretrain.sami import Sami
from esam_jax.models.sam import network
from esam_jax.ops import images, losses, masking
from esam_jax.tasks import plain_vit, start, stored
from esam_jax.tasks.task import BEHIND_TRUNK, Start, Task, TrainedModel
from esam_jax.tasks.teacher import Teacher
from esam_jax.typing import Batch, Params, PerExample

UNTRAINED_SEED = 2


def build(config: RunConfig) -> Task:
    """The SAMI task of a run; ConfigError for students and a teacher that do not go together."""
    task = config.task
    assert isinstance(task, SamiConfig)
    image_px = config.data.view.image_px
    teacher = Teacher(task.teacher, config.compute, image_px)
    students = {name: _student_config(name, image_px) for name in task.students}
    grid = _common_grid(students, teacher, image_px)
    visible = masking.visible_tokens(grid * grid, task.mask_ratio)
    part, shape = teacher.frozen(grid), (grid, grid, teacher.width)
    is_stored = stored.folder(config) is not None
    networks = {
        name: Sami(encoder, task.decoder, teacher.width, config.compute, task.queries)
        for name, encoder in students.items()
    }

    def draw(rng: Array, images: int) -> Batch:
        seen, masked = masking.choose(rng, images, grid * grid, visible)
        return {"seen": seen, "masked": masked}

    def compared(features_BhwT: Array, masked_BU: Array) -> Array:
        """The tokens that the loss is on."""
        tokens_BNT = features_BhwT.reshape(len(features_BhwT), grid * grid, -1)
        return tokens_BNT if task.loss_on == "all" else masking.gather(tokens_BNT, masked_BU)

    def loss(params: Params, frozen: Params, batch: Batch) -> PerExample:
        pixels = images.normalise(batch["image"])
        target = batch["target"] if is_stored else part.features(frozen["teacher"], batch["image"])
        # All students see the same patches of the same pictures.
        split = batch["seen"], batch["masked"]
        compare, target = losses.FEATURES[task.loss], compared(target, batch["masked"])
        each: dict[str, Array] = {}
        for name, student in networks.items():
            prediction = student.apply({"params": params[name]}, pixels, *split)
            assert isinstance(prediction, jax.Array)
            each[name] = compare(compared(prediction, batch["masked"]), target)
        return _summed(each, losses.of_the_mean(compare, target))

    def initial() -> Start:
        stored.require(config, part, shape, weights=True)
        return _initial(task, students)

    def resumed() -> Start:
        stored.require(config, part, shape, weights=False)
        return Start()

    def models(params: Params, _: Start) -> dict[str, TrainedModel]:
        return {name: _trained_model(named.sam(name), params[name]) for name in students}

    return Task(
        init=functools.partial(_init, networks, image_px, grid * grid, visible),
        loss=loss,
        example=stored.example(config, shape),
        models=models,
        draw=draw,
        frozen={} if is_stored else {"teacher": part},
        initial=initial,
        resumed=resumed,
    )


def _init(networks: dict[str, Sami], px: int, tokens: int, visible: int, rng: Array) -> Params:
    # The parameters do not depend on the image, so one will do.
    pixels, order = jnp.zeros((1, px, px, 3)), jnp.arange(tokens)[None]
    split = order[:, :visible], order[:, visible:]
    return {
        name: student.init(jax.random.fold_in(rng, i), pixels, *split)["params"]
        for i, (name, student) in enumerate(networks.items())
    }


def _initial(task: SamiConfig, students: dict[str, VitConfig]) -> Start:
    """MissingError for a file that is not there, CheckpointError for one that does not fit."""
    if task.init_from is None:
        return Start()
    return Start({name: _taken(task.init_from, name, x) for name, x in students.items()})


def _taken(init_from: str, name: str, encoder: VitConfig) -> Params:
    """The plain ViT that a file holds; class token and norm are drawn where it has none."""
    file = start.model_file(init_from, name)
    plain_vit.require(file, encoder, where=f"task.init_from {init_from}", model=name)
    return plain_vit.taken(file)


def _summed(each: dict[str, Array], baseline: Array) -> PerExample:
    """The losses of all students added, and what they are compared with; each where several are."""
    total = functools.reduce(jnp.add, each.values())
    metrics = {f"loss/{name}": value for name, value in each.items()} if len(each) > 1 else {}
    metrics["baseline_loss"] = len(each) * baseline
    return PerExample(total, jnp.ones_like(total), metrics)


def _student_config(name: str, image_px: int) -> VitConfig:
    named.sam(name)  # which `_trained_model` puts the trunk into
    return plain_vit.encoder("task.students", name, image_px, choices="an efficientsam_*")


def _common_grid(students: dict[str, VitConfig], teacher: Teacher, image_px: int) -> int:
    """Side of the token grid that all students share, and the teacher too unless it is pooled."""
    sizes = {name: encoder.patch_px for name, encoder in students.items()}
    if teacher.patch_px is not None:
        sizes[teacher.config.model] = teacher.patch_px
    if len(set(sizes.values())) > 1:
        raise ConfigError(
            f"patches are {', '.join(f'{px} px in {name}' for name, px in sizes.items())}, so "
            "their tokens do not pair: choose models that agree, or --task.teacher.view enlarged "
            "for a teacher that does not"
        )
    return image_px // next(iter(sizes.values()))


def _trained_model(config: SamConfig, params: Params) -> TrainedModel:
    """The trained trunk inside a complete model whose other parts are as initialised.

    The class token and the last norm have no place in it, but in a ViT of timm's.
    """
    rng = jax.random.key(UNTRAINED_SEED)
    model = jax.jit(functools.partial(network.init, config))(rng)
    model = {**model, "encoder": {**params["encoder"], "neck": model["encoder"]["neck"]}}
    return TrainedModel(config, model, BEHIND_TRUNK, timm_vit.kept(params))
