"""Classification: a plain ViT learns the classes of pictures, from scratch or from pretraining.

ImageNet fine-tuning of EfficientSAM (arXiv:2312.00863, section 4.1), whose recipe is MAE's
(arXiv:2111.06377, appendix A.1; upstream main_finetune.py); and supervised training from nothing,
DeiT's (arXiv:2012.12877; upstream main.py), with a teacher's answers or without.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from esam_jax.config import (
    ClassifiedConfig,
    ClassifierConfig,
    ClassifyConfig,
    ComputeConfig,
    EvaluateConfig,
    ModelConfig,
    RunConfig,
    VitConfig,
)
from esam_jax.convert import load
from esam_jax.convert.families import timm_vit
from esam_jax.convert.model_folder import ModelFile
from esam_jax.data import class_names, views
from esam_jax.data.views import classified
from esam_jax.errors import CheckpointError, ConfigError
from esam_jax.evaluate import accuracy
from esam_jax.models import named
from esam_jax.models.heads import classifier
from esam_jax.models.heads.classifier import Classifier
from esam_jax.ops import drop_path, images, rectangles, soft_labels
from esam_jax.tasks import start
from esam_jax.tasks.class_teacher import ClassTeacher
from esam_jax.tasks.task import Measure, Start, Task, TrainedModel
from esam_jax.typing import Batch, Params, PerExample

_DROP_PATH = 1  # number of its key, beside that of the mixture: 0
_TEACHER = "teacher"


def build(config: RunConfig) -> Task:
    """The classification task; ConfigError unless its encoder is a plain ViT of the view's size."""
    task, view = config.task, config.data.view
    assert isinstance(task, ClassifyConfig) and isinstance(view, ClassifiedConfig)
    network, taught = _network(task, view), _teacher(task, view, config.compute)
    model = Classifier(network, config.compute)

    def loss(params: Params, frozen: Params, batch: Batch) -> PerExample:
        scales = None
        if task.drop_path:
            scales = drop_path.scales(batch["drop_path"], task.drop_path)
        given = {"params": params[task.model]}
        by_head: Any = model.apply(given, batch["pixels"], scales, method="by_head")
        each_B = soft_labels.cross_entropy(by_head[0], batch["target"])
        ones_B = jnp.ones_like(each_B)
        if taught is None:
            return PerExample(each_B, ones_B, {})
        answer_BX = taught.logits(frozen[_TEACHER], batch["pixels"])
        taught_B, share = taught.loss(by_head[1], answer_BX), taught.config.share
        metrics = {"class_loss": each_B, "teacher_loss": taught_B}
        return PerExample((1 - share) * each_B + share * taught_B, ones_B, metrics)

    def measurement(evaluate: EvaluateConfig, mesh: Mesh) -> Measure:
        def of_pictures(params: Params, image: Array) -> Array:
            found: Any = model.apply({"params": params[task.model]}, images.normalise(image))
            return found

        return accuracy.measurement(of_pictures, view, evaluate, mesh)

    def models(params: Params, _: Start) -> dict[str, TrainedModel]:
        return {task.model: TrainedModel(network, params[task.model])}

    std = classifier.SCRATCH if task.init_from is None else classifier.PRETRAINED
    return Task(
        init=lambda key: {task.model: classifier.init(network, key, head_std=std)},
        loss=loss,
        example=views.shapes(view),
        models=models,
        draw=functools.partial(_draw, task, network),
        prepare=functools.partial(_prepared, task, view, network.classes),
        frozen={} if taught is None else {_TEACHER: taught.frozen()},
        initial=lambda: _initial(task, network),
        measurement=measurement,
    )


def _network(task: ClassifyConfig, view: ClassifiedConfig) -> ClassifierConfig:
    encoder = named.model(task.model).encoder
    if not isinstance(encoder, VitConfig):
        raise ConfigError(
            f"task.model is {task.model!r}, which has no plain ViT encoder: choose an "
            "efficientsam_*, mae_* or deit_* model"
        )
    if encoder.pretrain_px != view.image_px:
        raise ConfigError(
            f"data.view.image_px is {view.image_px}, but the position table of {task.model!r} was "
            f"made for {encoder.pretrain_px}: write --data.view.image-px {encoder.pretrain_px}"
        )
    vit = timm_vit.pretrained(encoder)
    classes = classified.count(view)
    return ClassifierConfig(
        encoder=vit, classes=classes, pool=task.pool, class_names=view.class_names
    )


def _teacher(
    task: ClassifyConfig, view: ClassifiedConfig, compute: ComputeConfig
) -> ClassTeacher | None:
    """Whose answers the second head learns; ConfigError for one of the two without the other."""
    if (task.pool == "distilled") != (task.teacher is not None):
        remedy = "--task.teacher.weights FILE" if task.teacher is None else "--task.pool distilled"
        raise ConfigError(
            f"task.pool is {task.pool!r}, but a distillation token and a teacher need each other: "
            f"write {remedy}"
        )
    if task.teacher is None:
        return None
    return ClassTeacher(task.teacher, compute, classified.count(view), view.image_px)


# ------------------------------------------------------------------ what is drawn and prepared


def _draw(task: ClassifyConfig, network: ClassifierConfig, key: Array, images: int) -> Batch:
    """`Task.draw`: one mixture for all rows, and the numbers by which blocks lose their branches.

    {"box": int32 [B, 4], "kept", "share": float32 [B]}: inside of `box` a picture keeps `kept` of
    its own, and its label keeps `share`.
    """
    drawn: dict[str, Any] = {}
    if task.mixup or task.cutmix:
        mixture = _mixture(task, network.encoder.pretrain_px, jax.random.fold_in(key, 0))
        drawn = {name: jnp.broadcast_to(x, (images, *x.shape)) for name, x in mixture.items()}
    if task.drop_path:
        shape = (images, network.encoder.depth, 2)
        drawn["drop_path"] = jax.random.uniform(jax.random.fold_in(key, _DROP_PATH), shape)
    return drawn


def _mixture(task: ClassifyConfig, px: int, key: Array) -> dict[str, Array]:
    """Mixup or CutMix, and how much of it."""
    which, amount, place = jax.random.split(key, 3)
    cuts = jax.random.uniform(which) < _share_of_cutmix(task)
    found = []
    if task.mixup:
        share = jax.random.beta(amount, task.mixup, task.mixup)
        found.append((jnp.asarray(rectangles.EVERYTHING), share, share))
    if task.cutmix:
        share = jax.random.beta(amount, task.cutmix, task.cutmix)
        y, x = jax.random.randint(place, (2,), 0, px)
        box, left = soft_labels.cut(share, y, x, px, px)
        found.append((box, jnp.zeros_like(left), left))
    chosen = jax.tree.map(lambda mixup, cutmix: jnp.where(cuts, cutmix, mixup), found[0], found[-1])
    return dict(zip(("box", "kept", "share"), chosen, strict=True))


def _share_of_cutmix(task: ClassifyConfig) -> float:
    return 0.5 if task.mixup and task.cutmix else float(task.cutmix > 0)


def _prepared(task: ClassifyConfig, view: ClassifiedConfig, classes: int, batch: Batch) -> Batch:
    """`Task.prepare`: {"pixels": normalised, erased, mixed; "target": smoothed, mixed}."""
    pixels = images.normalise(batch["image"])
    if view.erasing:
        pixels = rectangles.erased(pixels, batch["erased"], batch["noise"])
    target = soft_labels.smoothed(batch["label"], classes, task.smoothing)
    if task.mixup or task.cutmix:
        pixels = soft_labels.mixed_inside(pixels, batch["kept"], batch["box"])
        target = soft_labels.mixed(target, batch["share"])
    prepared = {"pixels": pixels, "target": target}
    return prepared | ({"drop_path": batch["drop_path"]} if task.drop_path else {})


# ------------------------------------------------------------------------------------- files


def _initial(task: ClassifyConfig, network: ClassifierConfig) -> Start:
    """What `init_from` holds of the network; the rest is drawn.

    MissingError for a file that is not there, CheckpointError for one that does not fit.
    """
    if task.init_from is None:
        return Start()
    file = start.model_file(task.init_from, task.model)
    found, wanted = file.config.encoder, network.encoder
    if not isinstance(found, VitConfig) or timm_vit.pretrained(found) != wanted:
        known = timm_vit.pretrained(found) if isinstance(found, VitConfig) else found
        raise CheckpointError(
            f"task.init_from {task.init_from} holds another encoder than {task.model!r}: "
            f"{load.differences(known, wanted)}; name the model that it holds, or other weights "
            "to start from"
        )
    return Start({task.model: _taken(file, network)})


def _taken(file: ModelFile, network: ClassifierConfig) -> Params:
    """Encoder and class token; the norm, where it is one of the same tokens, and with it a second
    token; all of a classifier of the same classes."""
    if _same_classes(file.config, network):
        return file.params
    known, params = file.config, file.params
    if isinstance(known, ClassifierConfig):
        params = classifier.of_imagenet_pixels(known, params)
    encoder = {name: x for name, x in params["encoder"].items() if name != "neck"}
    taken: dict[str, Any] = {"encoder": encoder}
    beside = {**timm_vit.beside(file.unused), **params}  # a SAMI run keeps them so
    if "class_token" in beside:
        taken["class_token"] = beside["class_token"]
    pooled = known.pool if isinstance(known, ClassifierConfig) else "class_token"
    # Of single tokens, or of the mean of the patches.
    if "norm" in beside and (pooled == "mean") == (network.pool == "mean"):
        taken["norm"] = beside["norm"]
    if "distillation" in beside and network.pool == "distilled":
        second = beside["distillation"]
        taken["distillation"] = {name: x for name, x in second.items() if name != "head"}
    return taken


def _same_classes(found: ModelConfig, network: ClassifierConfig) -> bool:
    """Whether all of a model can be taken: numbers alone do not say that classes are the same.

    But a head of 1000 classes without names is ImageNet's where the data are.
    """
    if not isinstance(found, ClassifierConfig):
        return False
    imagenet = class_names.are_synsets(network.class_names)
    names = found.class_names or (network.class_names if imagenet else ())
    return dataclasses.replace(found, class_names=names) == network
